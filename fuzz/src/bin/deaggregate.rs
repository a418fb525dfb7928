//! Takes apart the records on standard input, one in hex on each line, and writes what comes out of each as JSON. It
//! shows other readers of aggregates what this one reads.

use std::io::{BufRead, Write};

use kinesis_input::internals::deaggregate;
use kinesis_input_fuzz::kpl;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let byte = |at| u8::from_str_radix(line.get(at..at + 2).unwrap_or_default(), 16).unwrap_or_default();
        let data: Vec<u8> = (0..line.len() / 2).map(|at| byte(2 * at)).collect();
        let mut rows = kpl::rows(&data);
        deaggregate(&mut rows, None);
        let records: Vec<_> = rows
            .iter()
            .map(|record| {
                let hex: String = record.data_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                let (key, hash_key) = (record.partition_key(), record.explicit_hash_key());
                serde_json::json!([key, hash_key, hex, record.sub_sequence_number()])
            })
            .collect();
        writeln!(out, "{}", serde_json::Value::from(records))?;
    }
    Ok(())
}
