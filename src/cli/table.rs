//! Tables for people: columns as wide as what is in them, the last one as wide as the terminal allows.

use std::fmt::Write as _;

/// Which edge a column keeps straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    Left,
    Right,
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Edge)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Edge)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells past the last column are dropped, missing ones are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().map(|cell| visible(&cell)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The text, each line ended; headings in bold if `colour`. With `width` the last column is cut to fit.
    pub(crate) fn render(&self, width: Option<usize>, colour: bool) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                self.rows.iter().map(|row| columns_of(&row[at])).fold(self.columns[at].0.len(), usize::max)
            })
            .collect();
        let mut text = String::new();
        let headings: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let heading = self.line(&headings, &widths, width);
        if colour {
            let _ = writeln!(text, "\x1b[1m{heading}\x1b[0m");
        } else {
            let _ = writeln!(text, "{heading}");
        }
        for row in &self.rows {
            let _ = writeln!(text, "{}", self.line(row, &widths, width));
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize], width: Option<usize>) -> String {
        let last = self.columns.len().saturating_sub(1);
        let mut line = String::new();
        for (at, (cell, (_, edge))) in cells.iter().zip(&self.columns).enumerate() {
            if at > 0 {
                line.push_str("  ");
            }
            let room = width.map(|width| width.saturating_sub(columns_of(&line)).max(8));
            let cell = match room {
                Some(room) if at == last && columns_of(cell) > room => {
                    cell.chars().take(room - 1).chain(['…']).collect()
                }
                _ => cell.clone(),
            };
            let gap = " ".repeat(widths[at].saturating_sub(columns_of(&cell)));
            match edge {
                Edge::Right => line.extend([gap.as_str(), &cell]),
                Edge::Left if at == last => line.push_str(&cell),
                Edge::Left => line.extend([cell.as_str(), &gap]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Columns a text takes: one per character, which is wrong for wide scripts and right for argv and ids.
fn columns_of(text: &str) -> usize {
    text.chars().count()
}

/// What a program calls itself must not move our cursor: control characters are shown, not obeyed.
pub(crate) fn visible(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Bytes for people: `0 B`, `512 B`, `1.5 KiB`, `20 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A span of time for people: `0.4s`, `12s`, `3m05s`, `2h10m`, `4d03h`.
pub(crate) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..10 => format!("{}.{}s", seconds, milliseconds % 1000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[("ID", Edge::Left), ("BYTES", Edge::Right), ("COMMAND", Edge::Left)]);
        table.row(["repl".to_owned(), "7".to_owned(), "python3 -q".to_owned()]);
        table.row(["a-long-id".to_owned(), "1234567".to_owned(), "sleep\t1\x1b[2J".to_owned()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let expected = "ID           BYTES  COMMAND\n\
                        repl             7  python3 -q\n\
                        a-long-id  1234567  sleep\\t1\\u{1b}[2J\n";
        assert_eq!(sample().render(None, false), expected);
    }

    #[test]
    fn the_last_column_is_cut_to_the_terminal() {
        for line in sample().render(Some(30), false).lines() {
            assert!(line.chars().count() <= 30, "{line}");
        }
        assert!(sample().render(Some(30), false).contains('…'));
    }

    #[test]
    fn only_the_headings_are_bold_and_only_if_asked() {
        let text = sample().render(None, true);
        assert!(text.starts_with("\x1b[1mID") && text.matches('\x1b').count() == 2, "{text:?}");
    }

    #[test]
    fn numbers_are_short_and_honest() {
        let sizes =
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (20 << 20, "20 MiB")];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16 EiB");
        let spans = [(0, "0.0s"), (450, "0.4s"), (12_300, "12s"), (185_000, "3m05s"), (7_800_000, "2h10m")];
        for (milliseconds, text) in spans {
            assert_eq!(duration(milliseconds), text);
        }
        assert_eq!(duration(97 * 3_600_000), "4d01h");
    }
}
