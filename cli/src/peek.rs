//! How does a person see what is in a stream?

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::Args;
use kinesis_input::peek::{Peek as Reader, PeekError, PeekedRecord};
use kinesis_input::reset::To;

use crate::Exit;
use crate::reset::to;
use crate::table::AccessArguments;

/// The arguments of `kinesis-input peek`.
#[derive(Debug, Args)]
pub(crate) struct Peek {
    /// The stream, by name or ARN.
    #[arg(long)]
    stream: String,
    /// Only these shards. Otherwise all of the stream.
    #[arg(long = "shard", value_name = "SHARD")]
    shards: Vec<String>,
    /// Where to begin: `oldest`, `latest` (what is written from now on), a time in RFC 3339, or the sequence number of a
    /// record of one shard.
    #[arg(long, value_name = "oldest|latest|TIME|NUMBER", value_parser = to, default_value = "oldest")]
    from: To,
    /// How many records to show.
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// How many bytes of each payload to show.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    bytes: usize,
    /// Show payloads in hexadecimal, even if they are text.
    #[arg(long)]
    hex: bool,
    /// Print a JSON object for each record, with its whole payload.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AccessArguments,
}

/// Prints records. Returns the error message and the exit code if that fails.
pub(crate) async fn peek(arguments: &Peek) -> Result<(), (Exit, String)> {
    let failed = |error: PeekError| {
        let exit = if matches!(error, PeekError::OneShard) { Exit::Usage } else { Exit::Input };
        (exit, error.to_string())
    };
    let at = arguments.access.at("");
    let opened = Reader::open(&at, &arguments.stream, &arguments.shards, &arguments.from);
    let mut reader = opened.await.map_err(failed)?;
    let mut left = arguments.count;
    while left > 0
        && let Some(records) = reader.next(u32::try_from(left).unwrap_or(u32::MAX)).await.map_err(failed)?
    {
        let mut out = io::stdout().lock();
        for record in records.iter().take(left) {
            let shown = if arguments.json { json(record) } else { text(record, arguments) };
            if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
                // The reader of the output has closed it.
                return Ok(());
            }
        }
        left -= records.len().min(left);
    }
    let (shown, calls) = (arguments.count - left, reader.calls());
    // What it cost is for the person, not for the output.
    let _ = writeln!(
        io::stderr(),
        "{shown} records in {calls} calls of GetRecords; a shard allows five in a second, for all that poll it"
    );
    Ok(())
}

fn text(record: &PeekedRecord, arguments: &Peek) -> String {
    let mut out = format!("{} {}", record.shard, record.sequence_number);
    // Writing to a string can't fail.
    if let Some(sub) = record.sub_sequence_number {
        let _ = write!(out, "/{sub}");
    }
    if let Some(time) = record.arrival_ms.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok()) {
        let _ = write!(out, " {time:.3}");
    }
    if let Some(key) = &record.partition_key {
        let _ = write!(out, " key {key:?}");
    }
    if let Some(key) = &record.explicit_hash_key {
        let _ = write!(out, " hash key {key}");
    }
    let _ = writeln!(out, " {} bytes", record.data.len());
    out + &payload(&record.data, arguments.bytes, arguments.hex) + "\n"
}

/// A payload as text, or in hexadecimal if it is none.
fn payload(data: &[u8], most: usize, hex: bool) -> String {
    let mut out = String::new();
    let is_readable = |text: &str| text.chars().all(|char| !char.is_control() || "\n\r\t".contains(char));
    match std::str::from_utf8(data) {
        Ok(text) if !hex && is_readable(text) => {
            let mut shown = text.len().min(most);
            while !text.is_char_boundary(shown) {
                shown -= 1;
            }
            out.push_str("  ");
            out.push_str(&text[..shown].replace('\r', "").replace('\n', "\n  "));
            out.push('\n');
        }
        _ => {
            for (at, line) in data[..data.len().min(most)].chunks(16).enumerate() {
                // Writing to a string can't fail.
                let _ = write!(out, "  {:08x} ", at * 16);
                for byte in line {
                    let _ = write!(out, " {byte:02x}");
                }
                let visible =
                    line.iter().map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' });
                let _ = writeln!(out, "{:width$}  {}", "", visible.collect::<String>(), width = (16 - line.len()) * 3);
            }
        }
    }
    if data.len() > most {
        let _ = writeln!(out, "  … {} bytes more", data.len() - most);
    }
    out
}

/// A record with its payload, as text or in hexadecimal, on one line.
fn json(record: &PeekedRecord) -> String {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    let (key, data) = match std::str::from_utf8(&record.data) {
        Ok(text) => ("data", text.to_owned()),
        Err(_) => ("data_hex", record.data.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))),
    };
    value[key] = data.into();
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_text_or_in_hexadecimal() {
        assert_eq!(payload(b"{\"a\": 1}\n", 100, false), "  {\"a\": 1}\n  \n");
        assert_eq!(payload("grüße".as_bytes(), 3, false), "  gr\n  … 4 bytes more\n", "no half of a character");
        let hex = payload(b"\x00\x1b[31mred", 100, false);
        assert_eq!(
            hex, "  00000000  00 1b 5b 33 31 6d 72 65 64                       ..[31mred\n",
            "a terminal obeys nothing"
        );
        assert_eq!(
            payload(b"abc", 2, true),
            "  00000000  61 62                                            ab\n  … 1 bytes more\n"
        );
        assert_eq!(payload(b"", 10, false), "  \n");
    }
}
