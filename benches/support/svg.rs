//! Pictures of figures: bars, and lines over a count. Plain SVG, legible on light and dark ground.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const GREY: &str = "#808080";
const COLOURS: [&str; 6] = ["#2f7ed8", "#e0862a", "#3a9b5c", "#a855b8", "#c0392b", "#7a7a7a"];

fn open(height: f64, title: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"{GREY}\" role=\"img\" aria-label=\"{title}\">\n<text x=\"8\" y=\"20\" font-size=\"15\">{title}</text>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(svg, "{element}");
}

/// As many digits as are worth reading.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A bar for each name.
pub(crate) fn bars(title: &str, unit: &str, values: &[(String, f64)]) -> String {
    const LABELS: f64 = 300.0;
    const ROW: f64 = 26.0;
    let height = 40.0 + ROW * values.len() as f64;
    let mut svg = open(height, &format!("{title} [{unit}]"));
    let most = values.iter().fold(0.0_f64, |most, (_, value)| most.max(*value)).max(f64::MIN_POSITIVE);
    for (nth, (name, value)) in values.iter().enumerate() {
        let y = 34.0 + ROW * nth as f64;
        let length = (WIDTH - LABELS - 80.0) * value / most;
        let (text, name, colour) = (y + 14.0, escaped(name.trim()), COLOURS[0]);
        put(
            &mut svg,
            format_args!("<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>", LABELS - 8.0),
        );
        put(
            &mut svg,
            format_args!(
                "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>"
            ),
        );
        let end = LABELS + length + 6.0;
        put(&mut svg, format_args!("<text x=\"{end:.1}\" y=\"{text}\">{}</text>", figure(*value)));
    }
    svg + "</svg>\n"
}

/// What one line goes through: (count, value), ascending.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over a count, whose axis is logarithmic.
pub(crate) fn lines(title: &str, unit: &str, lines: &[Line]) -> String {
    let (left_edge, right_edge, top, bottom) = (64.0, WIDTH - 150.0, 44.0, 330.0);
    let mut svg = open(bottom + 40.0, &format!("{title} [{unit}]"));
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let most = all().fold(0.0_f64, |most, (_, value)| most.max(value)).max(f64::MIN_POSITIVE);
    let (first, last) =
        all().fold((f64::MAX, 1.0_f64), |(first, last), (count, _)| (first.min(count), last.max(count)));
    let span = (last / first).ln().max(f64::MIN_POSITIVE);
    let x = |count: f64| left_edge + (right_edge - left_edge) * (count / first).ln() / span;
    let y = |value: f64| bottom - (bottom - top) * value / most;
    for quarter in 0..=4 {
        let value = most * f64::from(quarter) / 4.0;
        let (at, text) = (y(value), y(value) + 4.0);
        put(
            &mut svg,
            format_args!(
                "<line x1=\"{left_edge}\" x2=\"{right_edge}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{GREY}\" stroke-opacity=\"0.3\"/>"
            ),
        );
        let left = left_edge - 6.0;
        put(
            &mut svg,
            format_args!("<text x=\"{left}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>", figure(value)),
        );
    }
    let mut counts: Vec<f64> = all().map(|(count, _)| count).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    for count in counts {
        let (at, below) = (x(count), bottom + 20.0);
        put(
            &mut svg,
            format_args!("<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{count}</text>"),
        );
    }
    for (nth, Line { name, points }) in lines.iter().enumerate() {
        let colour = COLOURS[nth % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|(count, value)| format!("{:.1},{:.1}", x(*count), y(*value))).collect();
        let path = path.join(" ");
        put(
            &mut svg,
            format_args!(
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"
            ),
        );
        let (legend, name) = (top + 22.0 * nth as f64, escaped(name));
        let (mark, text) = (right_edge + 14.0, right_edge + 32.0);
        put(
            &mut svg,
            format_args!("<rect x=\"{mark}\" y=\"{legend}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"),
        );
        put(&mut svg, format_args!("<text x=\"{text}\" y=\"{}\">{name}</text>", legend + 11.0));
    }
    svg + "</svg>\n"
}
