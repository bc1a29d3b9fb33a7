//! Rounds, medians, ratios, and the table they end in.

use serde_json::{Value, json};
use std::path::Path;

/// Rounds of each comparison: enough for a median that one disturbance doesn't move.
pub(crate) const ROUNDS: usize = 7;

/// The middle of some figures.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// Told, not judged.
    None,
}

impl Bar {
    fn is_met(self, figure: f64) -> Option<bool> {
        match self {
            Bar::AtLeast(least) => Some(figure >= least),
            Bar::AtMost(most) => Some(figure <= most),
            Bar::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Bar::AtLeast(least) => format!(">= {least}"),
            Bar::AtMost(most) => format!("<= {most}"),
            Bar::None => String::new(),
        }
    }
}

/// One bench's rows.
pub(crate) struct Report {
    name: &'static str,
    rows: Vec<Value>,
    missed: usize,
}

impl Report {
    pub(crate) fn new(name: &'static str, what: &str) -> Report {
        println!("\n{name}: {what}");
        println!("  {:<58} {:>12} {:>21} {:>9}  verdict", "", "median", "least .. most", "bar");
        Report { name, rows: Vec::new(), missed: 0 }
    }

    /// A row: figures of all rounds, their median against the bar.
    pub(crate) fn row(&mut self, what: &str, unit: &str, figures: &[f64], bar: Bar) {
        let middle = median(figures);
        let (least, most) = figures.iter().fold((f64::MAX, f64::MIN), |(l, m), f| (l.min(*f), m.max(*f)));
        let verdict = match bar.is_met(middle) {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        self.missed += usize::from(verdict == "MISSED");
        let label = if unit.is_empty() { what.to_owned() } else { format!("{what} [{unit}]") };
        let range = format!("{least:.3} .. {most:.3}");
        println!("  {label:<58} {middle:>12.3} {range:>21} {:>9}  {verdict}", bar.text());
        self.rows.push(json!({
            "what": what, "unit": unit, "median": middle, "figures": figures, "bar": bar.text(), "verdict": verdict,
        }));
    }

    /// A row of ratios, round by round.
    pub(crate) fn ratio(&mut self, what: &str, figures: &[f64], baselines: &[f64], bar: Bar) {
        let ratios: Vec<f64> = figures.iter().zip(baselines).map(|(figure, base)| figure / base).collect();
        self.row(what, "x", &ratios, bar);
    }

    /// Writes the results and says how many bars were missed.
    pub(crate) fn finish(self) -> usize {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-results");
        std::fs::create_dir_all(&folder).expect("the target folder is ours");
        let text = serde_json::to_string_pretty(&json!({"bench": self.name, "rows": self.rows}));
        let file = folder.join(format!("{}.json", self.name));
        std::fs::write(file, text.expect("figures are JSON")).expect("the target folder is ours");
        self.missed
    }
}
