//! Bars as SVG, for the pages.

use crate::contender::Kind;
use crate::load::figure;
use crate::report::Report;
use crate::rows::Phase;
use crate::stats;
use anyhow::Result;
use std::fmt::Write as _;
use std::path::Path;

/// What is drawn: file, title, job, figure, and what it is divided by.
const PLOTS: [(&str, &str, Phase, &str, &str, f64); 6] = [
    (
        "bulk-pod-out",
        "Bulk, 1 stream, pod to workstation, GB/s",
        Phase::Near,
        "bulk/1/pod-out",
        figure::RATE,
        1e9,
    ),
    (
        "bulk-out-pod",
        "Bulk, 1 stream, workstation to pod, GB/s",
        Phase::Near,
        "bulk/1/out-pod",
        figure::RATE,
        1e9,
    ),
    (
        "cpu",
        "CPU seconds for 1 GB, pod to workstation",
        Phase::Near,
        "bulk/1/pod-out",
        figure::CPU,
        1.0,
    ),
    (
        "connections",
        "New connections a second, 64 at once",
        Phase::Near,
        "connections/64",
        figure::CONNECTIONS,
        1.0,
    ),
    (
        "round-trip",
        "64-byte round trip on an idle tunnel, p50, us",
        Phase::Near,
        "round-trip",
        figure::TRIP_P50,
        1.0,
    ),
    (
        "beside-bulk",
        "64-byte round trip beside bulk, p99, us",
        Phase::Near,
        "round-trip/beside/pod-out",
        figure::TRIP_P99,
        1.0,
    ),
];

/// One bar.
#[derive(Clone, Debug)]
struct Bar {
    label: String,
    median: f64,
    low: f64,
    high: f64,
    /// Whether it is ours.
    ours: bool,
}

/// Draws what a run measured into `dir`; nothing where nothing was measured.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn draw(report: &Report, dir: &Path) -> Result<()> {
    for (file, title, phase, job, figure, scale) in PLOTS {
        let bars: Vec<Bar> = Kind::ALL
            .into_iter()
            .filter_map(|kind| {
                let values = stats::sorted(&report.values(phase, job, kind, figure));
                Some(Bar {
                    label: kind.name().to_owned(),
                    median: stats::median(&values) / scale,
                    low: values.first()? / scale,
                    high: values.last()? / scale,
                    ours: matches!(kind, Kind::Sternline | Kind::SternlineWebsocket),
                })
            })
            .collect();
        if !bars.is_empty() {
            std::fs::write(dir.join(format!("{file}.svg")), svg(title, &bars))?;
        }
    }
    Ok(())
}

/// Horizontal bars of medians, with whiskers from the lowest to the highest
/// round. Sizes in pixels.
fn svg(title: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 110.0;
    const WIDTH: f64 = 420.0;
    const ROW: f64 = 26.0;
    const TOP: f64 = 40.0;
    let most = bars.iter().map(|bar| bar.high).fold(0.0, f64::max);
    let x = |value: f64| match most > 0.0 {
        true => LEFT + value / most * WIDTH,
        false => LEFT,
    };
    let height = TOP + ROW * bars.len() as f64 + 10.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-weight=\"bold\">{}</text>\n",
        escape(title)
    );
    for (number, bar) in bars.iter().enumerate() {
        let top = TOP + ROW * number as f64;
        let middle = top + ROW / 2.0 - 3.0;
        let color = if bar.ours { "#1f6feb" } else { "#9aa4b2" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.0}\" width=\"{:.1}\" height=\"18\" fill=\"{color}\"/>\
             <path d=\"M{:.1} {middle:.0}H{:.1}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            LEFT - 8.0,
            top + 14.0,
            escape(&bar.label),
            x(bar.median) - LEFT,
            x(bar.low),
            x(bar.high),
            x(bar.high) + 8.0,
            top + 14.0,
            short(bar.median),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn short(value: f64) -> String {
    match value {
        n if n >= 100.0 => format!("{n:.0}"),
        n => format!("{n:.2}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, median: f64, high: f64) -> Bar {
        Bar {
            label: label.to_owned(),
            median,
            low: median / 2.0,
            high,
            ours: false,
        }
    }

    #[test]
    fn the_longest_whisker_fills_the_width_and_bars_keep_their_ratio() {
        let text = svg(
            "a < b",
            &[bar("one", 1.0, 2.0), bar("two & more", 0.5, 0.5)],
        );
        assert!(text.contains("width=\"210.0\""), "{text}");
        assert!(text.contains("width=\"105.0\""), "{text}");
        assert!(text.contains("H530.0"), "{text}");
        assert!(
            text.contains("a &lt; b") && text.contains("two &amp; more"),
            "{text}"
        );
        assert_eq!(text.matches("<rect").count(), 3);
        assert!(text.ends_with("</svg>\n"));
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        assert!(!svg("none", &[bar("none", 0.0, 0.0)]).contains("NaN"));
    }
}
