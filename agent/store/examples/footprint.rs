//! What sled costs with given settings: memory, disk, wake-ups. `docs/adr/0002-store.md` keeps a run.
//!
//! `cargo run -p holdfast-store --example footprint -- DIR CACHE SEGMENT FLUSH_MS ROUNDS [EVENTS]`
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A measurement, not part of the agent.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or("x 0");
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn size(dir: &Path) -> u64 {
    fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { size(&entry.path()) } else { meta.len() }
        })
        .sum()
}

fn report(what: &str, dir: &Path, started: Instant) {
    println!(
        "{what}: pss {} kB, anonymous {} kB, threads {}, disk {} kB, files {}, {} ms",
        field("/proc/self/smaps_rollup", "Pss:"),
        field("/proc/self/smaps_rollup", "Pss_Anon:"),
        field("/proc/self/status", "Threads:"),
        size(dir) / 1024,
        fs::read_dir(dir.join("blobs")).unwrap().count(),
        started.elapsed().as_millis()
    );
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| args[index].parse::<u64>().unwrap();
    let dir = Path::new(&args[0]);
    println!("before: pss {} kB", field("/proc/self/smaps_rollup", "Pss:"));
    let config = || {
        let flush = Some(number(3)).filter(|&ms| ms > 0);
        sled::Config::new()
            .path(dir)
            .mode(sled::Mode::LowSpace)
            .cache_capacity(number(1))
            .segment_size(number(2) as usize)
            .flush_every_ms(flush)
    };
    let started = Instant::now();
    let db = config().open().unwrap();
    report("empty", dir, started);
    // A busy box: 50 apps of 2 KiB that change in turn, a ring of so many events of 400 bytes (10,000).
    let started = Instant::now();
    let (apps, events) = (db.open_tree("apps").unwrap(), db.open_tree("events").unwrap());
    let rounds = number(4);
    let ring: u64 = args.get(5).map_or(10_000, |_| number(5));
    for round in 0..rounds {
        apps.insert((round % 50).to_be_bytes(), vec![round as u8; 2048]).unwrap();
        events.insert(round.to_be_bytes(), vec![round as u8; 400]).unwrap();
        if round >= ring {
            events.remove((round - ring).to_be_bytes()).unwrap();
        }
        if round % 20 == 0 {
            db.flush().unwrap();
        }
    }
    db.flush().unwrap();
    report("written", dir, started);
    drop((apps, events, db));
    let started = Instant::now();
    let db = config().open().unwrap();
    report("opened again", dir, started);
    let started = Instant::now();
    for name in db.tree_names() {
        assert!(db.open_tree(name).unwrap().iter().all(|entry| entry.is_ok()));
    }
    report("scanned", dir, started);
    let ticks = || {
        fs::read_to_string("/proc/self/stat")
            .unwrap()
            .split(' ')
            .skip(13)
            .take(2)
            .map(|t| t.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let (before, started) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    report(&format!("idle, {} ticks", ticks() - before), dir, started);
}
