//! A roofline as SVG: how fast everything is, against what the machine allows.
//!
//! Horizontally the multiply-adds done with each byte of weights, vertically those done per second, both logarithmic. Memory
//! bounds the left, where every weight is used for few tokens: the rate is at most bandwidth times intensity, a rising line.
//! Multiplying bounds the right. A panel for each number of threads, a colour for each kernel, a marker for each matrix.

use super::roofs::threads;
use rotor::machine::Roofs;
use std::fmt::Write as _;

/// What is drawn.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) subtitle: String,
    pub(super) panels: Vec<Panel>,
}

/// One number of threads.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) heading: String,
    /// Bytes per second.
    pub(super) bandwidth: f64,
    /// Multiply-adds per second of the plain multiply kernel.
    pub(super) yardstick: f64,
    /// Multiply-adds per second of multiplying alone.
    pub(super) multiply_peak: f64,
    pub(super) points: Vec<Point>,
}

impl Panel {
    /// Points under the roofs of as many threads.
    pub(super) fn new(roofs: &Roofs, points: Vec<Point>) -> Panel {
        Panel {
            heading: threads(roofs.threads),
            bandwidth: roofs.read_bandwidth,
            yardstick: roofs.yardstick,
            multiply_peak: roofs.multiply_peak,
            points,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(super) struct Point {
    /// What has one colour: a kernel, or a kind of test.
    pub(super) series: String,
    /// What has one marker: the matrix, or the test.
    pub(super) variant: String,
    /// Multiply-adds for each byte of weights.
    pub(super) intensity: f64,
    /// Multiply-adds per second.
    pub(super) rate: f64,
}

/// Colours that people with any colour vision tell apart (Okabe and Ito), the palest left out.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const INK: &str = "#24292f";
const FAINT: &str = "#6e7781";
const GRID: &str = "#eaeef2";

const WIDTH: f64 = 920.0;
const LEFT: f64 = 76.0;
/// Room for the names at the ends of the lines.
const RIGHT: f64 = 176.0;
const HEAD: f64 = 86.0;
const PANEL: f64 = 400.0;
/// Between one panel's plot and the next one's heading: ticks and the axis' title.
const FOOT: f64 = 92.0;
/// Least distance of two names at the right.
const NAME_HEIGHT: f64 = 17.0;
const LEGEND_LINE: f64 = 22.0;

/// A logarithmic axis in pixels.
#[derive(Clone, Copy, Debug)]
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        self.from + (value / self.low).ln() / (self.high / self.low).ln() * (self.to - self.from)
    }

    /// The powers of two or the 1, 2, 5 steps of each decade that lie on the axis.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
        let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
        steps.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

/// Draws the chart.
pub(super) fn svg(chart: &Chart) -> String {
    let series = names(chart, |point| &point.series);
    let variants = names(chart, |point| &point.variant);
    let legend = LEGEND_LINE * legend_lines(&variants) as f64;
    let height = HEAD + (PANEL + FOOT) * chart.panels.len() as f64 + legend + 16.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif\" font-size=\"13\" \
         fill=\"{INK}\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, LEFT, 34.0, "font-size=\"19\" font-weight=\"600\"", &chart.title);
    text(&mut out, LEFT, 55.0, &format!("fill=\"{FAINT}\""), &chart.subtitle);
    let bounds = Bounds::of(chart);
    for (index, panel) in chart.panels.iter().enumerate() {
        let top = HEAD + index as f64 * (PANEL + FOOT);
        draw_panel(&mut out, panel, &bounds, top, &series, &variants);
    }
    draw_legend(&mut out, height - legend - 8.0, &variants);
    out.push_str("</svg>\n");
    out
}

/// The range of both axes, the same in every panel so that they compare.
struct Bounds {
    x: (f64, f64),
    y: (f64, f64),
}

impl Bounds {
    fn of(chart: &Chart) -> Bounds {
        let points = || chart.panels.iter().flat_map(|panel| &panel.points);
        let range = |values: &mut dyn Iterator<Item = f64>| {
            let ends = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
            values.filter(|value| *value > 0.0).fold((f64::INFINITY, 0.0), ends)
        };
        let x = range(&mut points().map(|point| point.intensity));
        let roofs = chart.panels.iter().flat_map(|panel| [panel.yardstick, panel.multiply_peak]);
        let y = range(&mut points().map(|point| point.rate).chain(roofs));
        let sound = |(low, high): (f64, f64)| if low <= high { (low, high) } else { (1.0, 10.0) };
        let (x, y) = (sound(x), sound(y));
        Bounds { x: (x.0 / 1.8, x.1 * 1.8), y: (y.0 / 1.6, y.1 * 1.8) }
    }
}

fn names<'a>(chart: &'a Chart, name: impl Fn(&'a Point) -> &'a String) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for point in chart.panels.iter().flat_map(|panel| &panel.points) {
        if !names.contains(&name(point).as_str()) {
            names.push(name(point));
        }
    }
    names
}

fn draw_panel(out: &mut String, panel: &Panel, bounds: &Bounds, top: f64, series: &[&str], variants: &[&str]) {
    let (right, bottom) = (WIDTH - RIGHT, top + PANEL);
    let x = Axis { low: bounds.x.0, high: bounds.x.1, from: LEFT, to: right };
    let y = Axis { low: bounds.y.0, high: bounds.y.1, from: bottom, to: top + 18.0 };
    text(out, LEFT, top + 4.0, "font-weight=\"600\"", &panel.heading);
    draw_axes(out, &x, &y);
    draw_roofs(out, panel, &x, &y);
    let mut ends = Vec::new();
    for (index, name) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        for (marker, variant) in variants.iter().enumerate() {
            let own = |point: &&Point| point.series == *name && point.variant == *variant;
            let mut points: Vec<(f64, f64)> =
                panel.points.iter().filter(own).map(|point| (x.at(point.intensity), y.at(point.rate))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            draw_line(out, &points, colour);
            points.iter().for_each(|&(x, y)| draw_marker(out, marker, x, y, colour));
            ends.extend(points.last().map(|&(x, y)| (index, x, y)));
        }
    }
    draw_names(out, &ends, series, right, (y.to, bottom));
}

fn draw_axes(out: &mut String, x: &Axis, y: &Axis) {
    for tick in x.ticks() {
        let at = x.at(tick);
        line(out, (at, y.from), (at, y.to), GRID, "");
        text(out, at, y.from + 19.0, &format!("text-anchor=\"middle\" fill=\"{FAINT}\""), &number(tick));
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        line(out, (x.from, at), (x.to, at), GRID, "");
        let label = number(tick / 1e9);
        text(out, x.from - 9.0, at + 4.5, &format!("text-anchor=\"end\" fill=\"{FAINT}\""), &label);
    }
    line(out, (x.from, y.from), (x.to, y.from), FAINT, "");
    line(out, (x.from, y.from), (x.from, y.to), FAINT, "");
    let middle = (x.from + x.to) / 2.0;
    text(out, middle, y.from + 42.0, "text-anchor=\"middle\"", "multiply-adds for each byte of weights");
    let (at, centre) = (20.0, (y.from + y.to) / 2.0);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 {at} {centre:.1})\"");
    text(out, at, centre, &turned, "billion multiply-adds per second");
}

/// The bandwidth as far as the plot goes, and what multiplying does: at most, and in the plain kernel.
fn draw_roofs(out: &mut String, panel: &Panel, x: &Axis, y: &Axis) {
    let on_roof = |intensity: f64| (x.at(intensity), y.at(panel.bandwidth * intensity));
    let low = x.low.max(y.low / panel.bandwidth);
    let high = x.high.min(y.high / panel.bandwidth);
    if low < high {
        let (from, to) = (on_roof(low), on_roof(high));
        line(out, from, to, INK, "stroke-width=\"2\"");
        let slope = ((to.1 - from.1) / (to.0 - from.0)).atan().to_degrees();
        let (at_x, at_y) = on_roof((low.ln() * 0.45 + high.ln() * 0.55).exp());
        let turned =
            format!("text-anchor=\"middle\" transform=\"rotate({slope:.2} {at_x:.1} {at_y:.1}) translate(0 -7)\"");
        text(out, at_x, at_y, &turned, &format!("memory: {:.1} GB/s read", panel.bandwidth / 1e9));
    }
    let at = y.at(panel.multiply_peak);
    line(out, (x.from, at), (x.to, at), INK, "stroke-width=\"2\"");
    text(
        out,
        x.from + 8.0,
        at - 6.0,
        "",
        &format!("int8 multiplication alone: {} Gmac/s", number(panel.multiply_peak / 1e9)),
    );
    let at = y.at(panel.yardstick);
    line(out, (x.from, at), (x.to, at), INK, "stroke-width=\"1.5\" stroke-dasharray=\"7 4\"");
    text(out, x.from + 8.0, at - 6.0, "", &format!("plain multiply kernel: {} Gmac/s", number(panel.yardstick / 1e9)));
}

fn draw_line(out: &mut String, points: &[(f64, f64)], colour: &str) {
    if points.len() > 1 {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\" opacity=\"0.55\"/>",
            path.join(" ")
        );
    }
}

/// Circle, square, triangle, diamond; then the same, hollow.
fn draw_marker(out: &mut String, marker: usize, x: f64, y: f64, colour: &str) {
    let style = if (marker / 4).is_multiple_of(2) {
        format!("fill=\"{colour}\" stroke=\"#ffffff\" stroke-width=\"0.8\"")
    } else {
        format!("fill=\"#ffffff\" stroke=\"{colour}\" stroke-width=\"1.6\"")
    };
    let shape = match marker % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.4\" {style}/>"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\" {style}/>", x - 4.0, y - 4.0),
        2 => format!(
            "<polygon points=\"{x:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\" {style}/>",
            y - 5.2,
            x + 5.0,
            y + 3.8,
            x - 5.0,
            y + 3.8
        ),
        _ => format!(
            "<polygon points=\"{x:.1},{:.1} {:.1},{y:.1} {x:.1},{:.1} {:.1},{y:.1}\" {style}/>",
            y - 5.6,
            x + 5.6,
            y + 5.6,
            x - 5.6
        ),
    };
    let _ = writeln!(out, "{shape}");
}

/// The name of each series right of the plot, at the height of its last point, moved apart where they would overlap.
fn draw_names(out: &mut String, ends: &[(usize, f64, f64)], series: &[&str], right: f64, (top, bottom): (f64, f64)) {
    let mut names: Vec<(usize, f64, f64)> = Vec::new();
    for &(index, x, y) in ends {
        // A series has several lines; its name stands at the one that ends highest.
        match names.iter_mut().find(|(named, ..)| *named == index) {
            Some(name) if name.2 <= y => {}
            Some(name) => *name = (index, x, y),
            None => names.push((index, x, y)),
        }
    }
    names.sort_by(|a, b| a.2.total_cmp(&b.2));
    let wanted: Vec<f64> = names.iter().map(|name| name.2).collect();
    for (&(index, x, y), at) in names.iter().zip(spread(&wanted, top, bottom)) {
        let colour = COLOURS[index % COLOURS.len()];
        let style = format!("stroke=\"{colour}\" stroke-width=\"0.8\" opacity=\"0.7\" fill=\"none\"");
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {y:.1} L{right:.1} {at:.1} L{:.1} {at:.1}\" {style}/>",
            x + 6.0,
            right + 8.0
        );
        text(out, right + 12.0, at + 4.5, &format!("fill=\"{colour}\" font-weight=\"600\""), series[index]);
    }
}

/// Heights in ascending order, moved apart as little as a single pass does, within the bounds where they fit.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut placed: Vec<f64> = Vec::new();
    for &height in wanted {
        let least = placed.last().map_or(top, |above| above + NAME_HEIGHT);
        placed.push(height.max(least));
    }
    let mut most = bottom;
    for height in placed.iter_mut().rev() {
        *height = height.min(most);
        most = *height - NAME_HEIGHT;
    }
    placed
}

/// Widths are estimated: the fonts of whoever looks at it are not known.
fn legend_width(name: &str) -> f64 {
    34.0 + 7.6 * name.chars().count() as f64
}

fn legend_lines(variants: &[&str]) -> usize {
    legend_places(variants).last().map_or(0, |(_, line)| line + 1)
}

/// Left edge and line of each entry.
fn legend_places(variants: &[&str]) -> Vec<(f64, usize)> {
    let (mut x, mut line) = (LEFT, 0);
    let mut places = Vec::new();
    for name in variants {
        let width = legend_width(name);
        if x + width > WIDTH - 20.0 && x > LEFT {
            (x, line) = (LEFT, line + 1);
        }
        places.push((x, line));
        x += width;
    }
    places
}

fn draw_legend(out: &mut String, top: f64, variants: &[&str]) {
    for (marker, (name, (x, line))) in variants.iter().zip(legend_places(variants)).enumerate() {
        let y = top + LEGEND_LINE * (line as f64 + 0.5);
        draw_marker(out, marker, x + 6.0, y, FAINT);
        text(out, x + 17.0, y + 4.5, "", name);
    }
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, style: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>", escaped(words));
}

/// Text as XML holds it.
fn escaped(words: &str) -> String {
    let printable = words.replace(|c: char| c.is_control(), " ");
    printable.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Three digits are enough for a label.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{}", (value * 100.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let point = |series: &str, variant: &str, intensity, rate| Point {
            series: series.into(),
            variant: variant.into(),
            intensity,
            rate,
        };
        let points = vec![
            point("planes", "2560x2560", 4.0, 7e10),
            point("planes", "2560x2560", 512.0, 1.7e11),
            point("codes <&>", "640x2560", 4.0, 5e10),
        ];
        let panel = |heading: &str| Panel {
            heading: heading.into(),
            bandwidth: 2e10,
            yardstick: 6e10,
            multiply_peak: 3e11,
            points: points.clone(),
        };
        Chart { title: "T".into(), subtitle: "S".into(), panels: vec![panel("1 thread"), panel("2 threads")] }
    }

    #[test]
    fn every_point_and_roof_of_every_panel_is_drawn() {
        let svg = svg(&chart());
        assert_eq!(svg.matches("<circle").count(), 2 * 2 + 1, "two a panel, one in the legend");
        assert_eq!(svg.matches("<rect x").count(), 2 + 1);
        assert_eq!(svg.matches("memory: 20.0 GB/s read").count(), 2);
        assert_eq!(svg.matches("plain multiply kernel: 60 Gmac/s").count(), 2);
        assert_eq!(svg.matches(">codes &lt;&amp;&gt;</text>").count(), 2);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn nothing_measured_is_an_empty_plot() {
        let svg = svg(&Chart { panels: Vec::new(), ..chart() });
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }

    #[test]
    fn names_keep_their_distance() {
        let placed = spread(&[100.0, 101.0, 102.0, 300.0], 0.0, 300.0);
        assert!(placed.windows(2).all(|pair| pair[1] - pair[0] >= NAME_HEIGHT), "{placed:?}");
        assert_eq!((placed[0], placed[3]), (100.0, 300.0));
        let low = spread(&[299.0, 300.0], 0.0, 300.0);
        assert_eq!(low, [300.0 - NAME_HEIGHT, 300.0]);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!([1234.5, 100.0, 12.34, 2.0, 0.5, 0.05].map(number), ["1234", "100", "12.3", "2", "0.5", "0.05"]);
    }

    #[test]
    fn ticks_lie_on_the_axis() {
        let axis = Axis { low: 1.5, high: 30.0, from: 0.0, to: 1.0 };
        assert_eq!(axis.ticks(), [2.0, 5.0, 10.0, 20.0]);
        assert!((axis.at(30.0) - 1.0).abs() < 1e-12 && axis.at(1.5) == 0.0);
    }
}
