//! What should be read from a text that `serde_json` can read?
//!
//! This is a second reader, slow and plain, made from the promises of the first one: the last value of a field counts,
//! absent and null are the same, a record needs a sequence number, and the names of shards may be anything.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::said::{Child, Record, Said};

/// The expected result for a text.
#[derive(Debug)]
pub enum Verdict {
    /// This event, with numbers that may be off by this much.
    Says(Box<Said>, Slack),
    /// An error, for this reason.
    Refused(&'static str),
    /// Either is allowed.
    Open,
}

/// How far numbers may be off that were read as floats, by a reader that rounds differently.
#[derive(Debug, Clone, Default)]
pub struct Slack {
    pub millis_behind: u64,
    /// One entry for each record.
    pub arrivals: Vec<u64>,
}

/// Reads an event a second time.
pub fn read(payload: &[u8]) -> Verdict {
    let Ok(tree) = serde_json::from_slice::<Tree>(payload) else { return Verdict::Open };
    let mut reading = Reading::default();
    match reading.event(&tree) {
        // A value that a later one replaces may have been checked or not.
        _ if reading.replaced_bad => Verdict::Open,
        Ok(()) => Verdict::Says(Box::new(reading.said), reading.slack),
        Err(why) => Verdict::Refused(why),
    }
}

/// A JSON value that keeps everything that counts: repeated fields are kept with all their values.
#[derive(Debug, Clone)]
enum Tree {
    Null,
    Bool,
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

#[derive(Default)]
struct Reading {
    /// The number of shards named, children and parents.
    shards: usize,
    said: Said,
    slack: Slack,
    replaced_bad: bool,
}

type Result<T> = std::result::Result<T, &'static str>;

impl Reading {
    fn event(&mut self, tree: &Tree) -> Result<()> {
        for (name, value) in tree.fields("an event that is no object")? {
            match &name[..] {
                "Records" => {
                    self.said.records.clear();
                    self.slack.arrivals.clear();
                    for value in value.elements("records that are no list")? {
                        let record = self.record(value)?;
                        self.said.records.push(record);
                    }
                }
                "ContinuationSequenceNumber" => {
                    let text = value.text("a continuation that is no string")?.filter(|text| !text.is_empty());
                    if let Some(text) = text {
                        sequence_number(text)?;
                    }
                    self.said.continuation = text.map(str::to_owned);
                }
                "MillisBehindLatest" => {
                    (self.said.millis_behind, self.slack.millis_behind) = match value {
                        Tree::Null => (None, 0),
                        Tree::Integer(number) => (Some(clamp(*number)), 0),
                        Tree::Float(number) => near(*number),
                        _ => return Err("a lag that is no number"),
                    };
                }
                "ChildShards" => {
                    self.said.children.clear();
                    for value in value.elements("children that are no list")? {
                        let child = self.child(value)?;
                        self.said.children.push(child);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn record(&mut self, tree: &Tree) -> Result<Record> {
        let mut record = Record::default();
        let (mut sequence, mut slack) = (None, 0);
        for (name, value) in tree.fields("a record that is no object")? {
            match &name[..] {
                "Data" => {
                    let text = value.text("data that is no string")?;
                    record.data = text.map_or(Ok(Vec::new()), from_base64)?;
                }
                "SequenceNumber" => {
                    self.replaced_bad |= sequence.is_some_and(|text| sequence_number(text).is_err());
                    sequence = value.text("a sequence number that is no string")?;
                }
                "PartitionKey" => {
                    self.replaced_bad |= record.key.as_ref().is_some_and(|key| key.len() >= usize::from(u16::MAX));
                    record.key = value.text("a key that is no string")?.map(str::to_owned);
                }
                "ApproximateArrivalTimestamp" => {
                    let millis = match value {
                        Tree::Null => None,
                        Tree::Integer(seconds) => Some(*seconds as f64 * 1000.0),
                        Tree::Float(seconds) => Some(seconds * 1000.0),
                        _ => return Err("a time that is no number"),
                    };
                    (record.arrival_millis, slack) = millis.map_or((None, 0), near);
                }
                _ => {}
            }
        }
        let sequence = sequence.ok_or("no sequence number")?;
        sequence_number(sequence)?;
        sequence.clone_into(&mut record.sequence);
        if record.key.as_ref().is_some_and(|key| key.len() >= usize::from(u16::MAX)) {
            return Err("a key that is too long");
        }
        self.slack.arrivals.push(slack);
        Ok(record)
    }

    /// Counts a shard that is named. No shard ends with this many.
    fn name_shard(&mut self) -> Result<()> {
        self.shards += 1;
        if self.shards > 1000 { Err("too many shards") } else { Ok(()) }
    }

    fn child(&mut self, tree: &Tree) -> Result<Child> {
        self.name_shard()?;
        let mut id = None;
        let mut parents = Vec::new();
        for (name, value) in tree.fields("a child that is no object")? {
            match &name[..] {
                "ShardId" => id = value.text("an id that is no string")?,
                "ParentShards" => {
                    parents = Vec::new();
                    for value in value.elements("parents that are no list")? {
                        self.name_shard()?;
                        let parent = value.text("a parent that is no string")?.ok_or("a parent that is null")?;
                        parents.push(parent.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(Child { id: id.ok_or("a child without an id")?.to_owned(), parents })
    }
}

impl Tree {
    fn fields(&self, otherwise: &'static str) -> Result<&[(String, Tree)]> {
        match self {
            Self::Object(fields) => Ok(fields),
            Self::Null => Ok(&[]),
            _ => Err(otherwise),
        }
    }

    fn elements(&self, otherwise: &'static str) -> Result<&[Tree]> {
        match self {
            Self::List(elements) => Ok(elements),
            Self::Null => Ok(&[]),
            _ => Err(otherwise),
        }
    }

    fn text(&self, otherwise: &'static str) -> Result<Option<&str>> {
        match self {
            Self::Text(text) => Ok(Some(text)),
            Self::Null => Ok(None),
            _ => Err(otherwise),
        }
    }
}

/// Checks whether a text may be a sequence number.
pub fn sequence_number(text: &str) -> Result<()> {
    let good = (1..=256).contains(&text.len()) && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if good { Ok(()) } else { Err("not a sequence number") }
}

/// A float as a whole number, and its tolerance.
fn near(number: f64) -> (Option<i64>, u64) {
    let whole = number as i64;
    (Some(whole), 1 + (whole.unsigned_abs() >> 50))
}

fn clamp(number: i128) -> i64 {
    number.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// Decodes base64 with padding, and with zeros in the bits that are left over.
fn from_base64(text: &str) -> Result<Vec<u8>> {
    const BAD: &str = "data that is not base64";
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return Err(BAD);
    }
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text[..text.len() - padding].bytes() {
        let sextet = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(BAD),
        };
        bits = bits << 6 | u32::from(sextet);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    if bits == 0 { Ok(out) } else { Err(BAD) }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Grow)
    }
}

struct Grow;

impl<'de> Visitor<'de> for Grow {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Tree, E> {
        Ok(Tree::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Tree, E> {
        Ok(Tree::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Tree, E> {
        Ok(Tree::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<Tree, E> {
        Ok(Tree::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Tree, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Tree::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Object(fields))
    }
}
