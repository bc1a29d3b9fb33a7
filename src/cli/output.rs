//! From a process's streams to ours: what `logs`, `attach` and their `--json` print.

use crate::cli::context::versioned;
use crate::cli::failure::Failure;
use crate::cli::terminal;
use kairo_client::DirectItem;
use kairo_wire::codec::data::Data;
use kairo_wire::methods::stream::StreamName;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Prints items as they come.
#[derive(Debug)]
pub(crate) struct Printer {
    /// Our stdout without a buffer: chunks are large, and a person waits for small ones.
    out: File,
    json: bool,
    /// Name of the process, for what is said on stderr.
    name: String,
}

impl Printer {
    pub(crate) fn new(name: &str, json: bool) -> Result<Printer, Failure> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Printer { out, json, name: name.to_owned() })
    }

    /// stdout to stdout, stderr to stderr, gaps in words to stderr; or all of it as JSON lines to stdout.
    pub(crate) fn print(&mut self, item: &DirectItem<'_>) -> Result<(), Failure> {
        if self.json {
            let line = format!(
                "{}
",
                versioned(item_json(item)?)
            );
            self.out.write_all(line.as_bytes())?;
            return Ok(());
        }
        match item {
            DirectItem::Chunk { stream: StreamName::Stdout, data, .. } => {
                terminal::watch(data);
                self.out.write_all(data)?;
            }
            DirectItem::Chunk { stream: StreamName::Stderr, data, .. } => {
                io::stderr().lock().write_all(data)?
            }
            DirectItem::Gap { stream, from, to } => {
                let (name, stream) = (&self.name, stream.word());
                writeln!(
                    io::stderr().lock(),
                    "kairo: bytes {from} to {to} of {name}'s {stream} are no longer kept"
                )?;
            }
            DirectItem::Overflow => {
                writeln!(io::stderr().lock(), "kairo: bytes of {} were missed", self.name)?
            }
            DirectItem::End { .. } | DirectItem::LeaderExited { .. } => {}
        }
        Ok(())
    }
}

fn item_json(item: &DirectItem<'_>) -> Result<Value, Failure> {
    Ok(match item {
        DirectItem::Chunk { stream, offset, data, partial } => {
            let data = Data(bytes::Bytes::copy_from_slice(data));
            let data =
                serde_json::to_value(&data).map_err(|error| Failure::new("E_SHAPE", error.to_string()))?;
            json!({ "stream": stream.word(), "offset": offset, "data": data, "partial": partial })
        }
        DirectItem::Gap { stream, from, to } => {
            json!({ "stream": stream.word(), "gap": { "from": from, "to": to } })
        }
        DirectItem::End { stream, total_bytes, gap_bytes, reason } => {
            let end = json!({ "totalBytes": total_bytes, "gapBytes": gap_bytes, "reason": reason.word() });
            json!({ "stream": stream.word(), "end": end })
        }
        DirectItem::Overflow => json!({ "overflow": true }),
        DirectItem::LeaderExited { code } => json!({ "exited": { "code": code } }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_told_from_those_that_are() {
        let chunk = |data| DirectItem::Chunk { stream: StreamName::Stdout, offset: 7, data, partial: false };
        assert_eq!(item_json(&chunk(b"hi\n")).unwrap()["data"], "hi\n");
        assert_eq!(item_json(&chunk(b"\xff\x00")).unwrap()["data"], json!({"$base64": "/wA="}));
        assert_eq!(item_json(&chunk(b"x")).unwrap()["offset"], 7);
    }
}
