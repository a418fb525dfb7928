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
        record.extend(field(3, data.as_ref()));
        packed.extend(field(3, &record));
    }
    let mut body = Vec::new();
    for key in &keys {
        body.extend(field(1, key.as_bytes()));
    }
    body.extend(packed);
    if body.is_empty() {
        // An aggregate has at least one byte of protobuf.
        body = field(1, b"k");
    }
    sealed(&body)
}

/// The data of a record that holds this protobuf as an aggregate, with the checksum that fits.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    [&[0xF3, 0x89, 0x9A, 0xC2], body, &Md5::digest(body)[..]].concat()
}

/// A length-delimited field of protobuf.
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    varint(&mut field, content.len() as u64);
    field.extend_from_slice(content);
    field
}

fn varint(body: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        body.push(value as u8 | 0x80);
        value >>= 7;
    }
    body.push(value as u8);
}
