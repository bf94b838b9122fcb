//! Holds the pages to the code. One program, so that `--test pages` runs all
//! of it and nothing else.

mod audit;
mod dependencies;
mod gateway;
mod links;
mod monitoring;
mod operations;
mod protocol;
mod requirements;
mod units;
