//! Packs user records into one record, as the Kinesis Producer Library does.

use md5::{Digest, Md5};

/// The data of a record that holds these user records, each a partition key and its data.
pub fn aggregate(records: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<[u8]>)>) -> Vec<u8> {
    let mut keys: Vec<String> = Vec::new();
    let mut packed = Vec::new();
    for (key, data) in records {
        let key = key.as_ref();
        let at = keys.iter().position(|known| known == key).unwrap_or_else(|| {
            keys.push(key.to_owned());
            keys.len() - 1
        });
        let mut record = vec![0x08];
        varint(&mut record, at as u64);
        field(&mut record, 3, data.as_ref());
        field(&mut packed, 3, &record);
    }
    let mut body = Vec::new();
    for key in &keys {
        field(&mut body, 1, key.as_bytes());
    }
    body.extend(packed);
    if body.is_empty() {
        // An aggregate has at least one byte of protobuf.
        field(&mut body, 1, b"k");
    }
    let sum = Md5::digest(&body);
    [&[0xF3, 0x89, 0x9A, 0xC2], &body[..], &sum[..]].concat()
}

fn field(body: &mut Vec<u8>, number: u8, content: &[u8]) {
    body.push(number << 3 | 2);
    varint(body, content.len() as u64);
    body.extend_from_slice(content);
}

fn varint(body: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        body.push(value as u8 | 0x80);
        value >>= 7;
    }
    body.push(value as u8);
}
