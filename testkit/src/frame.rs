//! How is a frame written? Only the service does it; tests and benchmarks act as the service.

/// A frame with string headers.
///
/// # Panics
///
/// If a header is longer than the format allows.
pub fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).unwrap());
        head.extend(name.as_bytes());
        head.push(7);
        head.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        head.extend(value.as_bytes());
    }
    let mut out = Vec::new();
    out.extend(u32::try_from(16 + head.len() + payload.len()).unwrap().to_be_bytes());
    out.extend(u32::try_from(head.len()).unwrap().to_be_bytes());
    out.extend(crc32fast::hash(&out).to_be_bytes());
    out.extend(head);
    out.extend(payload);
    out.extend(crc32fast::hash(&out).to_be_bytes());
    out
}

/// The frame of an event.
///
/// # Panics
///
/// If the text is longer than the format allows.
pub fn event(json: &str) -> Vec<u8> {
    let headers = [
        (":message-type", "event"),
        (":event-type", "SubscribeToShardEvent"),
        (":content-type", "application/x-amz-json-1.1"),
    ];
    frame(&headers, json.as_bytes())
}
