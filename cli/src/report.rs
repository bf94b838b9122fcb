//! What a forward tells its user: events, and the two ways to print them.
//!
//! Text is for people: on standard output the lines of kubectl, on standard
//! error what went wrong. JSON is for programs: one object per line and event,
//! all on standard output. Readers shall ignore events and fields that they do
//! not know.

mod event;
mod text;

pub use event::{Closed, Connection, Ended, Event, Forwarding, Lost, Ready, Reconnected, Rejected};

use crate::args::Format;
use crate::output::Output;
use text::Line;

/// Tells the user what happens.
pub trait Reporter: Send + Sync + std::fmt::Debug {
    /// Tells one event.
    fn report(&self, event: &Event);
}

/// The reporter for a format.
#[must_use]
pub fn reporter(format: Format, quiet: bool, output: Output) -> Box<dyn Reporter> {
    match format {
        Format::Text => Box::new(Text { quiet, output }),
        Format::Json => Box::new(Json { output }),
    }
}

#[derive(Debug)]
struct Text {
    quiet: bool,
    output: Output,
}

impl Reporter for Text {
    fn report(&self, event: &Event) {
        for line in text::lines(event) {
            match line {
                Line::Progress(_) if self.quiet => {}
                Line::Progress(line) => self.output.line(line),
                Line::Note(line) => self.output.note(line),
                Line::Error(line) => self.output.error(line),
            }
        }
    }
}

#[derive(Debug)]
struct Json {
    output: Output,
}

impl Reporter for Json {
    fn report(&self, event: &Event) {
        match serde_json::to_string(event) {
            Ok(line) => self.output.line(line),
            Err(error) => self
                .output
                .error(format_args!("an event has no JSON form: {error}")),
        }
        // Who reads the log of a failed job sees the reason there too.
        if let Event::Ended(ended) = event
            && ended.is_failure()
        {
            self.output.error(&ended.message);
        }
    }
}
