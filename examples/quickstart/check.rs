//! Did every record arrive, once, whole and in order?

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// The number of partition keys. Order is promised within a shard, and so within a partition key.
pub const KEYS: u64 = 997;

/// The partition key of a record.
pub fn key(number: u64) -> u64 {
    number % KEYS
}

/// The data of a record: its number, then padding that depends on it.
pub fn data(number: u64, bytes: usize) -> Vec<u8> {
    let mut data = format!("{number} ").into_bytes();
    let first = b'a' + (number % 26) as u8;
    data.resize(bytes.max(data.len()), first);
    data
}

/// Compares what arrives with what was put.
#[derive(Debug)]
pub struct Check {
    record_bytes: usize,
    seen: Vec<bool>,
    /// For each key, one more than the last record that arrived for the first time.
    after: Vec<u64>,
    pub distinct: u64,
    pub duplicated: u64,
    pub out_of_order: u64,
    /// Records that were never put.
    pub broken: u64,
}

impl Check {
    pub fn new(records: u64, record_bytes: usize) -> Self {
        Self {
            record_bytes,
            seen: vec![false; records as usize],
            after: vec![0; KEYS as usize],
            distinct: 0,
            duplicated: 0,
            out_of_order: 0,
            broken: 0,
        }
    }

    /// Takes the next record.
    pub fn take(&mut self, record: &[u8]) {
        let digits = record.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&record[..digits]).ok().and_then(|digits| digits.parse::<u64>().ok());
        let Some(number) = number.filter(|number| data(*number, self.record_bytes) == record) else {
            self.broken += 1;
            return;
        };
        let Some(seen) = self.seen.get_mut(number as usize) else {
            self.broken += 1;
            return;
        };
        if std::mem::replace(seen, true) {
            self.duplicated += 1;
            return;
        }
        self.distinct += 1;
        let after = &mut self.after[key(number) as usize];
        if number < *after {
            self.out_of_order += 1;
        }
        *after = (*after).max(number + 1);
    }

    pub fn lost(&self) -> u64 {
        self.seen.len() as u64 - self.distinct
    }
}

/// A file that grows, record by record, each on a line.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// A line that is incomplete.
    part: Vec<u8>,
}

impl Tail {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, part: Vec::new() }
    }

    /// Takes all complete lines that are new.
    pub fn read_into(&mut self, check: &mut Check) -> io::Result<()> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut new = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut new)?;
            if count == 0 {
                return Ok(());
            }
            self.part.extend_from_slice(&new[..count]);
            let Some(end) = self.part.iter().rposition(|byte| *byte == b'\n') else { continue };
            let rest = self.part.split_off(end + 1);
            let lines = std::mem::replace(&mut self.part, rest);
            for line in lines[..end].split(|byte| *byte == b'\n') {
                check.take(line);
            }
        }
    }

    /// Cuts off an incomplete line of a writer that was killed. The record was not acknowledged, and comes again.
    pub fn cut_incomplete_line(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let mut file = File::options().write(true).open(&self.path)?;
        let whole = file.seek(SeekFrom::End(0))? - self.part.len() as u64;
        file.set_len(whole)?;
        self.part.clear();
        if let Some(open) = &mut self.file {
            open.seek(SeekFrom::Start(whole))?;
        }
        Ok(())
    }
}
