//! Prints the table of stories and runtimes out of the records of the runs:
//!
//! `sternline-runtime-table DIRECTORY RUNTIME...`
//!
//! For each RUNTIME, `DIRECTORY/RUNTIME.jsonl` has the records and
//! `DIRECTORY/RUNTIME.programs` what its programs cost. Ends with 1 unless
//! every story passed, or says why it does not apply, on every RUNTIME.

use std::error::Error;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};
use sternline_e2e::table::{Column, table};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let directory = words.next().ok_or("which directory?")?;
    let columns: Result<Vec<Column>, _> = words
        .map(|runtime| column(Path::new(&directory), &runtime))
        .collect();
    let (text, all_well) = table(&columns?);
    io::stdout().write_all(text.as_bytes())?;
    Ok(match all_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn column(directory: &Path, runtime: &str) -> Result<Column, Box<dyn Error>> {
    let records = read(&directory.join(format!("{runtime}.jsonl")))?;
    let programs = read(&directory.join(format!("{runtime}.programs")))?;
    // A run that was killed may have left half a line.
    let records = records
        .lines()
        .map_while(|line| serde_json::from_str(line).ok());
    Ok(Column {
        runtime: runtime.to_owned(),
        programs: programs.trim().to_owned(),
        records: records.collect(),
    })
}

/// What is not there is what a run did not come to.
fn read(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}
