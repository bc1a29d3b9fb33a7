//! Rounds, medians, ratios, and the table they end in.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

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
    what: &'static str,
    rows: Vec<Value>,
    missed: usize,
}

impl Report {
    pub(crate) fn new(name: &'static str, what: &'static str) -> Report {
        println!("\n{name}: {what}");
        println!("  {:<58} {:>12} {:>21} {:>9}  verdict", "", "median", "least .. most", "bar");
        Report { name, what, rows: Vec::new(), missed: 0 }
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

    /// A row that is a point of a line: its name, and the count it stands over.
    pub(crate) fn point(&mut self, what: &str, unit: &str, (line, count): (&str, usize), figures: &[f64]) {
        self.row(what, unit, figures, Bar::None);
        if let Some(row) = self.rows.last_mut() {
            row["line"] = line.into();
            row["count"] = count.into();
        }
    }

    /// Writes the results and says how many bars were missed.
    pub(crate) fn finish(self) -> usize {
        let folder = folder();
        std::fs::create_dir_all(&folder).expect("the target folder is ours");
        let Report { name, what, rows, .. } = &self;
        let text = serde_json::to_string_pretty(
            &json!({"bench": name, "what": what, "taken": taken(), "rows": rows}),
        );
        let file = folder.join(format!("{}.json", self.name));
        std::fs::write(file, text.expect("figures are JSON")).expect("the target folder is ours");
        self.missed
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-results")
}

/// What a bench has left when it ran last.
pub(crate) fn results(bench: &str) -> Option<Value> {
    let text = std::fs::read_to_string(folder().join(format!("{bench}.json"))).ok()?;
    Some(serde_json::from_str(&text).expect("the results are ours"))
}

/// When and where.
fn taken() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let asked = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let cpu = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
        Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
    });
    let changed = asked("git", &["status", "--porcelain"]).is_some_and(|text| !text.is_empty());
    let commit = asked("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_else(unknown);
    json!({
        "date": asked("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
        "commit": format!("{commit}{}", if changed { " and what wasn't committed" } else { "" }),
        "cpu": cpu.unwrap_or_else(unknown),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").unwrap_or_else(unknown),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").unwrap_or_else(unknown),
    })
}
