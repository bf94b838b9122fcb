//! The table fault -> specs, and what follows from it.

use super::{failed, run};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{Arc, Mutex},
};
use sternline_conformance::Level;
use sternline_reference::{FAULTS, Setup};
use tokio::sync::mpsc;

/// Faults that are judged at once. They mostly wait.
const AT_ONCE: usize = 5;

/// Specs that are run again one by one, at most; more are run together.
const FEW: usize = 4;

/// What the required specs found of one fault.
#[derive(Debug, Default)]
struct Caught {
    /// Those that failed each time.
    by: BTreeSet<&'static str>,
    /// Those that failed at first and not again: by chance, or over what the
    /// fault did to another spec.
    once: BTreeSet<&'static str>,
}

type Matrix = BTreeMap<&'static str, Caught>;

/// The faults that the environment's `FAULTS` names; `None`: all of them.
fn named() -> io::Result<Option<Vec<(&'static str, Setup)>>> {
    let words = std::env::var("FAULTS").unwrap_or_default();
    let mut chosen = Vec::new();
    for word in words.split([',', ' ']).filter(|word| !word.is_empty()) {
        let known = FAULTS.iter().find(|(fault, _)| *fault == word);
        let known = known.ok_or_else(|| io::Error::other(format!("no fault is named {word:?}")))?;
        if !chosen.contains(known) {
            chosen.push(*known);
        }
    }
    Ok((!chosen.is_empty()).then_some(chosen))
}

/// Judges the faults, and prints a row for each as it comes.
async fn matrix(faults: &[(&'static str, Setup)], out: &mut impl io::Write) -> io::Result<Matrix> {
    let count = faults.len();
    writeln!(
        out,
        "\n{count} faults, and the required specs that caught each:"
    )?;
    let queue: VecDeque<_> = faults.iter().copied().collect();
    let queue = Arc::new(Mutex::new(queue));
    let (tell, mut told) = mpsc::channel(1);
    for _ in 0..AT_ONCE {
        let (queue, tell) = (Arc::clone(&queue), tell.clone());
        tokio::spawn(async move {
            loop {
                let next = queue.lock().expect("not poisoned").pop_front();
                let Some((fault, setup)) = next else { return };
                let caught = caught(fault, setup).await;
                tell.send((fault, caught)).await.expect("the table waits");
            }
        });
    }
    drop(tell);
    let mut matrix = Matrix::new();
    while let Some((fault, caught)) = told.recv().await {
        let number = matrix.len() + 1;
        write!(out, "  {number:3} {fault:28} {}", list(&caught.by))?;
        if !caught.once.is_empty() {
            write!(out, "   (once: {})", list(&caught.once))?;
        }
        writeln!(out)?;
        out.flush()?;
        matrix.insert(fault, caught);
    }
    assert_eq!(matrix.len(), count, "each fault was judged once");
    Ok(matrix)
}

/// Judges a fault by all specs, and again by those that failed: what failed by
/// chance does not fail again. Few are run one by one, so that none fails over
/// what a fault does to another that runs beside it.
async fn caught(fault: &'static str, setup: Setup) -> Caught {
    let first = failed(&run(Some(fault), setup, Vec::new()).await);
    let mut by = first.clone();
    if by.len() > FEW {
        by = &by & &again(fault, setup, by.iter().copied()).await;
    }
    if by.len() <= FEW {
        let mut alone = BTreeSet::new();
        for id in by {
            alone.append(&mut again(fault, setup, [id]).await);
        }
        by = &first & &alone;
    }
    let once = &first - &by;
    Caught { by, once }
}

/// Those of these specs that fail by themselves.
async fn again(
    fault: &'static str,
    setup: Setup,
    ids: impl IntoIterator<Item = &'static str>,
) -> BTreeSet<&'static str> {
    let only = ids.into_iter().map(str::to_owned).collect();
    failed(&run(Some(fault), setup, only).await)
}

/// Required specs that may be taken away without letting any fault escape.
fn idle(matrix: &Matrix) -> BTreeSet<&'static str> {
    let required = sternline_conformance::all()
        .into_iter()
        .filter(|spec| spec.level == Level::Required);
    let needed: BTreeSet<_> = matrix
        .values()
        .filter(|caught| caught.by.len() == 1)
        .flat_map(|caught| &caught.by)
        .copied()
        .collect();
    required
        .map(|spec| spec.id)
        .filter(|id| !needed.contains(id))
        .collect()
}

fn list(specs: &BTreeSet<&'static str>) -> String {
    specs.iter().copied().collect::<Vec<_>>().join(", ")
}

/// Whether every fault is caught and, where all of them are judged, no required
/// spec is idle.
pub(super) async fn is_good(out: &mut impl io::Write) -> io::Result<bool> {
    let named = named()?;
    let matrix = matrix(named.as_deref().unwrap_or(FAULTS), out).await?;
    let mut good = true;
    for (fault, _) in matrix.iter().filter(|(_, caught)| caught.by.is_empty()) {
        writeln!(out, "ESCAPED: {fault}")?;
        good = false;
    }
    if named.is_some() {
        writeln!(
            out,
            "only some faults were judged: no spec is proved needed"
        )?;
        return Ok(good);
    }
    for id in idle(&matrix) {
        let with: Vec<_> = matrix
            .iter()
            .filter(|(_, caught)| caught.by.contains(id))
            .map(|(fault, caught)| format!("{fault} is caught by {}", list(&caught.by)))
            .collect();
        let why = match with.is_empty() {
            true => "it caught nothing".to_owned(),
            false => with.join("; "),
        };
        writeln!(
            out,
            "IDLE: without {id} as many faults would be caught: {why}"
        )?;
        good = false;
    }
    Ok(good)
}
