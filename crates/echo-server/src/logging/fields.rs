//! What an event holds, in a line for people.

use std::fmt::{self, Debug};
use std::mem;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::Harmless;

/// Fields as `name=value`, the message without its name, each value harmless.
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut shown = Shown { writer, delimiter: "", result: Ok(()) };
        fields.record(&mut shown);
        shown.result
    }
}

struct Shown<'w> {
    writer: Writer<'w>,
    delimiter: &'static str,
    result: fmt::Result,
}

impl Visit for Shown<'_> {
    // Debug shows small ones with an exponent.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let (value, delimiter) = (Harmless(value), mem::replace(&mut self.delimiter, " "));
        self.result = self.result.and_then(|()| match field.name() {
            "message" => write!(self.writer, "{delimiter}{value:?}"),
            name => write!(self.writer, "{delimiter}{name}={value:?}"),
        });
    }
}
