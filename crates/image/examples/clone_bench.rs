//! How long a clone of a kept disk takes: `clone_bench DIRECTORY MIB`, both disks in DIRECTORY, MIB of data in pieces of
//! 1 MiB with holes between them. One line per run.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Instant;

use agent_vm_image::clone_disk;

const MIB: u64 = 1 << 20;
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), Some(mib)) = (arguments.next(), arguments.next()) else {
        return Err("clone_bench DIRECTORY MIB".into());
    };
    let mib: u64 = mib.to_string_lossy().parse()?;
    let directory = PathBuf::from(directory);
    let (source, target) = (
        directory.join("clone-source"),
        directory.join("clone-target"),
    );
    let disk = File::create(&source)?;
    disk.set_len(2 * mib * MIB + (1 << 30))?;
    let piece = vec![7_u8; 1 << 20];
    for index in 0..mib {
        disk.write_all_at(&piece, 2 * index * MIB)?;
    }
    disk.sync_all()?;
    let disk = File::open(&source)?;
    for _ in 0..RUNS {
        let started = Instant::now();
        let (clone, method) = clone_disk(&disk, &target, 1 << 30)?;
        println!(
            "{method:?} of {mib} MiB: {:.1} ms",
            started.elapsed().as_secs_f64() * 1e3
        );
        drop(clone);
        fs_err::remove_file(&target)?;
    }
    fs_err::remove_file(&source)?;
    Ok(())
}
