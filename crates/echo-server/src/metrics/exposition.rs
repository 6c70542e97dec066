//! Metrics as text, in the two forms that are read: OpenMetrics 1.0 and Prometheus' text 0.0.4.

use std::fmt::{Display, Write};

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Text,
}

impl Format {
    /// The form that an `Accept` header likes best (RFC 9110, section 12.5.1), OpenMetrics where it likes
    /// both; text where it says nothing, or no more than that it takes anything.
    pub(crate) fn negotiated(accept: &str) -> Self {
        let quality = |is_meant: fn(&str, Option<&str>) -> u8| {
            let offers = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let media = parts.next()?.to_ascii_lowercase();
                let parameters: Vec<_> = parts.filter_map(|it| it.split_once('=')).collect();
                let parameter = |name: &str| {
                    let found = parameters.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.trim_matches('"'))
                };
                let quality = parameter("q").map_or(Some(1.0), |q| q.parse::<f32>().ok())?;
                Some((is_meant(&media, parameter("version")), quality))
            });
            // The most exact range counts, whatever the others say.
            let best = offers.filter(|(exactness, _)| *exactness > 0).max_by_key(|it| it.0);
            best.map_or(0.0, |(_, quality)| quality)
        };
        let open_metrics = quality(|media, version| match (media, version) {
            ("application/openmetrics-text", Some("1.0.0")) => 3,
            // What is as old as that is read the same way.
            ("application/openmetrics-text", None | Some("0.0.1")) => 2,
            ("application/*", _) => 1,
            _ => 0,
        });
        let text = quality(|media, version| match (media, version) {
            ("text/plain", Some("0.0.4")) => 4,
            ("text/plain", None) => 3,
            ("text/*", _) => 2,
            ("*/*", _) => 1,
            _ => 0,
        });
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of the text.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text under way. Each family is begun once, and its samples follow.
#[derive(Debug)]
pub(crate) struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, text: String::new() }
    }

    /// A family that only grows. `name` is without `_total`.
    pub(crate) fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "counter", help, "_total")
    }

    /// A family that goes up and down.
    pub(crate) fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help, "")
    }

    /// Facts as labels of a sample that is 1. `name` is without `_info`.
    pub(crate) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        match self.format {
            Format::OpenMetrics => self.family(name, "info", help, "_info"),
            Format::Text => self.family(&format!("{name}_info"), "gauge", help, ""),
        }
        .sample(labels, 1);
    }

    /// A family of distributions.
    pub(crate) fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help, "")
    }

    /// The whole text.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text += "# EOF\n";
        }
        self.text
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, suffix: &'static str) -> Family<'_> {
        let unit =
            ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        // The older form names the samples, the newer one the family.
        let (described, unit) = match self.format {
            Format::OpenMetrics => (name.to_owned(), unit),
            Format::Text => (format!("{name}{suffix}"), None),
        };
        let unit = unit.map_or_else(String::new, |unit| format!("# UNIT {described} {unit}\n"));
        self.put(format_args!("# HELP {described} {help}\n# TYPE {described} {kind}\n{unit}"));
        Family { exposition: self, name: name.to_owned(), suffix }
    }

    fn put(&mut self, text: impl Display) {
        // A string takes all.
        let _ = write!(self.text, "{text}");
    }
}

/// A family whose samples are written.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    exposition: &'a mut Exposition,
    name: String,
    suffix: &'static str,
}

impl Family<'_> {
    /// One more sample, of which there is none yet with these labels.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.put(self.suffix, labels, value);
    }

    /// One more distribution: how many were at most so large, for rising bounds, how many in all, and
    /// their sum.
    pub(crate) fn distribution(
        &mut self,
        labels: &[(&str, &str)],
        at_most: impl Iterator<Item = (f64, u64)>,
        (count, sum): (u64, f64),
    ) {
        let bounds = at_most.map(|(bound, count)| (float(bound), count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), count)]) {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.put("_bucket", &labels, count);
        }
        self.put("_count", labels, count);
        self.put("_sum", labels, sum);
    }

    fn put(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = match labels.join(",") {
            none if none.is_empty() => none,
            some => format!("{{{some}}}"),
        };
        self.exposition.put(format_args!("{}{suffix}{labels} {value}\n", self.name));
    }
}

/// A bound from a microsecond up, in OpenMetrics' canonical form: with a point, or two digits of exponent.
fn float(bound: f64) -> String {
    format!("{bound:?}").replace("e-", "e-0")
}

fn escaped(label: &str) -> String {
    label.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        exposition.counter("a_bytes", "Bytes.").sample(&[("path", "a\"b\\c\nd")], 5);
        exposition.gauge("b", "A level.").sample(&[], 0.5);
        exposition.info("c", "Facts.", &[("version", "1")]);
        let buckets = [(0.000_001, 1), (1.0, 2)].into_iter();
        exposition.histogram("d_seconds", "Times.").distribution(&[("x", "y")], buckets, (3, 4.5));
        exposition.finish()
    }

    #[test]
    fn the_newer_form_names_families_and_has_an_end() {
        assert_eq!(
            sample(Format::OpenMetrics),
            r##"# HELP a_bytes Bytes.
# TYPE a_bytes counter
# UNIT a_bytes bytes
a_bytes_total{path="a\"b\\c\nd"} 5
# HELP b A level.
# TYPE b gauge
b 0.5
# HELP c Facts.
# TYPE c info
c_info{version="1"} 1
# HELP d_seconds Times.
# TYPE d_seconds histogram
# UNIT d_seconds seconds
d_seconds_bucket{x="y",le="1e-06"} 1
d_seconds_bucket{x="y",le="1.0"} 2
d_seconds_bucket{x="y",le="+Inf"} 3
d_seconds_count{x="y"} 3
d_seconds_sum{x="y"} 4.5
# EOF
"##
        );
    }

    #[test]
    fn the_older_form_names_samples() {
        let text = sample(Format::Text);
        assert!(text.contains("# TYPE a_bytes_total counter\na_bytes_total{"), "{text}");
        assert!(text.contains("# TYPE c_info gauge\nc_info{"), "{text}");
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    }

    #[test]
    fn the_form_that_is_liked_best_is_chosen() {
        use Format::{OpenMetrics, Text};
        for (accept, format) in [
            ("", Text),
            ("*/*", Text),
            ("text/plain", Text),
            ("text/html,*/*;q=0.8", Text),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", OpenMetrics),
            ("application/openmetrics-text; version=2.0.0", Text),
            ("application/openmetrics-text;q=0.3, text/plain;version=0.0.4;q=0.5", Text),
            ("application/openmetrics-text;q=0.5, text/plain;version=0.0.4;q=0.3", OpenMetrics),
            ("application/openmetrics-text;q=0, */*", Text),
            ("application/openmetrics-text;q=much", Text),
            // What Prometheus 2.42 and 3.0 send.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                 escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            (";;;=,,;q", Text),
        ] {
            assert_eq!(Format::negotiated(accept), format, "{accept}");
        }
    }
}
