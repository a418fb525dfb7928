//! How is a curve of the last half hour drawn?

use maud::{Markup, html};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 84.0;
/// The space above the curve, so that its line is not cut off.
const TOP: f64 = 4.0;

/// A curve, with the text that says the same to those who do not see it.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    /// The value now, as a text.
    pub(crate) now: String,
    /// The class of the curve's color.
    pub(crate) class: &'a str,
    /// The age of each sample in seconds, and its value; the oldest first. There are gaps where it is not known.
    pub(crate) samples: Vec<(f64, Option<f64>)>,
    /// How a value is written.
    pub(crate) value: fn(f64) -> String,
    /// The round number above a value, at which the scale ends.
    pub(crate) round: fn(f64) -> f64,
    /// The length of the scale of time, in seconds.
    pub(crate) span: f64,
}

impl Chart<'_> {
    pub(crate) fn render(&self) -> Markup {
        let known = || self.samples.iter().filter_map(|(_, value)| *value);
        let most = known().fold(0.0, f64::max);
        let least = known().reduce(f64::min).unwrap_or_default();
        let scale = (self.round)(most);
        let span = format!("{} min", (self.span / 60.0).round());
        let said = if known().next().is_none() {
            format!("{}: nothing is known yet", self.title)
        } else {
            let (least, most) = ((self.value)(least), (self.value)(most));
            format!("{}: {} now, between {least} and {most} in the last {span}", self.title, self.now)
        };
        html! {
            figure.chart {
                figcaption { span { (self.title) } strong { (self.now) } }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(said) class=(self.class) {
                    @for part in [0.0, 0.5] {
                        @let y = TOP + (HEIGHT - TOP) * part;
                        line.grid x1="0" x2=(WIDTH) y1=(px(y)) y2=(px(y)) {}
                    }
                    @for run in self.runs(scale) {
                        path.area d=(area(&run)) {}
                        path.line d=(line(&run)) {}
                    }
                    line.base x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                }
                div.scale aria-hidden="true" { span { (span) " ago" } span { "top " ((self.value)(scale)) } span { "now" } }
            }
        }
    }

    /// The points of the curve, in a run for each stretch without a gap.
    fn runs(&self, scale: f64) -> Vec<Vec<(f64, f64)>> {
        let mut runs = vec![Vec::new()];
        for (age, value) in &self.samples {
            let x = WIDTH * (1.0 - age / self.span);
            match (value, runs.last_mut()) {
                (Some(value), Some(run)) => run.push((x, HEIGHT - (HEIGHT - TOP) * (value / scale).clamp(0.0, 1.0))),
                (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
                _ => {}
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }
}

fn line(run: &[(f64, f64)]) -> String {
    let points =
        run.iter().enumerate().map(|(at, (x, y))| format!("{}{} {}", if at == 0 { "M" } else { "L" }, px(*x), px(*y)));
    points.collect()
}

fn area(run: &[(f64, f64)]) -> String {
    let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { return String::new() };
    format!("{}L{} {HEIGHT}L{} {HEIGHT}Z", line(run), px(*last), px(*first))
}

/// A coordinate with one decimal.
fn px(value: f64) -> String {
    format!("{value:.1}")
}

/// The next number above this one that is easy to read: 1, 2 or 5 times a power of ten.
pub(crate) fn nice(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|scale| *scale >= most).unwrap_or(most)
}

/// The next round number of bytes, in units of 1024.
pub(crate) fn nice_bytes(most: f64) -> f64 {
    let unit = 1024f64.powf(most.max(1.0).log(1024.0).floor());
    nice(most / unit) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_a_round_number_above_the_greatest_value() {
        let shown = |scale: f64| scale.to_string();
        assert_eq!([0.0, 0.3, 1.0, 1.1, 21.0, 99.0].map(nice).map(shown), ["1", "0.5", "1", "2", "50", "100"]);
        assert_eq!([0.0, 300.0, 1500.0, 1_100_000.0].map(nice_bytes).map(shown), ["1", "500", "2048", "2097152"]);
    }

    #[test]
    fn curve_has_a_gap_where_nothing_is_known() {
        let value = |value: f64| format!("{value}");
        let samples = vec![(20.0, Some(0.0)), (15.0, Some(5.0)), (10.0, None), (5.0, Some(10.0)), (0.0, Some(0.0))];
        let chart = Chart { title: "Lag", now: "0".into(), class: "lag", samples, value, round: nice, span: 20.0 };
        let runs = chart.runs(10.0);
        assert_eq!(runs, [vec![(0.0, 84.0), (90.0, 44.0)], vec![(270.0, 4.0), (360.0, 84.0)]]);
        let drawn = chart.render().into_string();
        assert!(drawn.contains("M0.0 84.0L90.0 44.0\"") && drawn.contains("between 0 and 10"), "{drawn}");
    }
}
