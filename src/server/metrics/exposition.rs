//! The text of metrics, in its two forms: OpenMetrics, and the older one of Prometheus. They differ in the name of a counter's
//! family, in what they know, and in the end.

use std::fmt::{Display, Write};

/// What a family of samples is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricKind {
    /// It only grows, until the server starts again.
    Counter,
    Gauge,
    Histogram,
    /// It is always 1, and its labels say all. The older form has it as a gauge.
    Info,
}

impl MetricKind {
    fn word(self, is_open: bool) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Histogram => "histogram",
            MetricKind::Info if is_open => "info",
            MetricKind::Gauge | MetricKind::Info => "gauge",
        }
    }

    /// What its samples have behind the family's name, which the older form takes for a part of that.
    fn suffix(self) -> &'static str {
        match self {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        }
    }
}

/// The text, as far as it is written.
#[derive(Debug)]
pub(super) struct Exposition {
    is_open: bool,
    text: String,
    /// The family of the next samples.
    name: &'static str,
}

impl Exposition {
    pub(super) fn new(is_open: bool) -> Exposition {
        Exposition {
            is_open,
            // What all of it takes, about.
            text: String::with_capacity(16 << 10),
            name: "",
        }
    }

    /// Begins a family of samples.
    pub(super) fn family(&mut self, kind: MetricKind, name: &'static str, help: &str) {
        let suffix = if self.is_open { "" } else { kind.suffix() };
        let word = kind.word(self.is_open);
        self.name = name;
        self.line(format_args!("# HELP {name}{suffix} {help}"));
        self.line(format_args!("# TYPE {name}{suffix} {word}"));
    }

    /// Adds a sample of the family. The labels' values are words of ours, without quotes.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let pairs = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""));
        let pairs = pairs.collect::<Vec<_>>().join(",");
        let name = self.name;
        match labels {
            [] => self.line(format_args!("{name}{suffix} {value}")),
            _ => self.line(format_args!("{name}{suffix}{{{pairs}}} {value}")),
        }
    }

    /// Adds a family of one counter.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(MetricKind::Counter, name, help);
        self.sample(MetricKind::Counter.suffix(), &[], value);
    }

    /// Adds a family of one gauge.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(MetricKind::Gauge, name, help);
        self.sample("", &[], value);
    }

    /// Adds a family of labels alone.
    pub(super) fn info(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)]) {
        self.family(MetricKind::Info, name, help);
        self.sample(MetricKind::Info.suffix(), labels, 1);
    }

    /// All of it.
    pub(super) fn end(mut self) -> Vec<u8> {
        if self.is_open {
            self.line(format_args!("# EOF"));
        }
        self.text.into_bytes()
    }

    fn line(&mut self, line: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_differ_in_names_and_in_the_end() {
        let text = |is_open| {
            let mut to = Exposition::new(is_open);
            to.counter("a", "All.", 1);
            to.family(MetricKind::Gauge, "b", "Some.");
            to.sample("", &[("x", "1"), ("y", "2")], 0.5);
            to.info("c", "Which.", &[("v", "3")]);
            String::from_utf8(to.end()).unwrap()
        };
        assert_eq!(
            text(true),
            "# HELP a All.\n# TYPE a counter\na_total 1\n# HELP b Some.\n# TYPE b gauge\nb{x=\"1\",y=\"2\"} 0.5\n\
             # HELP c Which.\n# TYPE c info\nc_info{v=\"3\"} 1\n# EOF\n"
        );
        assert_eq!(
            text(false),
            "# HELP a_total All.\n# TYPE a_total counter\na_total 1\n# HELP b Some.\n# TYPE b gauge\nb{x=\"1\",y=\"2\"} 0.5\n\
             # HELP c_info Which.\n# TYPE c_info gauge\nc_info{v=\"3\"} 1\n"
        );
    }
}
