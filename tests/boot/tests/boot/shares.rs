//! A6 and the file server: the project appears at its own path, writes go both ways, `ro` holds.

use agent_vm_boot_tests::Machine;
use anyhow::Result;

#[test]
fn mounts_the_project_at_its_own_path_and_starts_in_the_current_directory() -> Result<()> {
    let machine = Machine::new()?;
    let directory = machine.project().join("inner dir");
    machine.make_directory(&directory)?;
    machine.write(
        &machine.project().join(".git/HEAD"),
        "ref: refs/heads/main\n",
        0o644,
    )?;
    machine.write(&machine.project().join("from-host"), "host text\n", 0o644)?;
    let script = "pwd; cat ../from-host; echo guest text > from-guest; stat -c %u:%a from-guest";
    let finished = machine
        .script(&[], script)
        .current_dir(&directory)
        .run()?
        .expect_code(0)?;
    assert_eq!(
        finished.stdout,
        format!("{}\nhost text\n0:644\n", directory.display())
    );
    assert_eq!(
        fs_err::read_to_string(directory.join("from-guest"))?,
        "guest text\n"
    );
    Ok(())
}

#[test]
fn works_in_paths_with_spaces_cyrillic_and_emoji_and_below_tmp() -> Result<()> {
    let machine = Machine::new()?;
    for name in ["with space", "проект", "🦀 crab", "quote'\"$(x)"] {
        let directory = machine.project().join(name);
        machine.make_directory(&directory)?;
        let finished = machine
            .script(&[], "pwd; echo ok > written")
            .current_dir(&directory)
            .run()?
            .expect_code(0)?;
        assert_eq!(finished.stdout, format!("{}\n", directory.display()));
        assert_eq!(fs_err::read_to_string(directory.join("written"))?, "ok\n");
    }
    let below_tmp = tempfile::Builder::new()
        .prefix("boot project ")
        .tempdir_in("/tmp")?;
    machine.make_directory(below_tmp.path())?;
    let finished = machine
        .script(&[], "pwd; echo ok > written")
        .current_dir(below_tmp.path())
        .run()?
        .expect_code(0)?;
    assert_eq!(finished.stdout, format!("{}\n", below_tmp.path().display()));
    assert_eq!(
        fs_err::read_to_string(below_tmp.path().join("written"))?,
        "ok\n"
    );
    Ok(())
}

#[test]
fn sees_edits_of_the_host_while_it_runs() -> Result<()> {
    let machine = Machine::new()?;
    let file = machine.project().join("watched");
    machine.write(&file, "old\n", 0o644)?;
    let script =
        "cat watched; touch started; while ! grep -q new watched; do sleep 0.1; done; cat watched";
    let running = machine.script(&[], script).start()?;
    let started = std::time::Instant::now();
    while !machine.project().join("started").exists() {
        assert!(started.elapsed().as_secs() < 120, "the guest did not write");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // As an editor saves: a new file renamed over the old one.
    machine.write(&machine.project().join("watched.new"), "new\n", 0o644)?;
    fs_err::rename(machine.project().join("watched.new"), &file)?;
    assert_eq!(running.finish()?.expect_code(0)?.stdout, "old\nnew\n");
    Ok(())
}

#[test]
fn refuses_writes_to_a_read_only_mount_even_after_a_remount() -> Result<()> {
    let machine = Machine::new()?;
    let shared = machine.home().join("shared");
    machine.write(&shared.join("kept"), "kept\n", 0o666)?;
    let spec = format!("{}:/mnt/shared:ro", shared.display());
    let script = "cat /mnt/shared/kept; \
        for i in 1 2; do \
          echo bad > /mnt/shared/kept; echo bad > /mnt/shared/new; rm /mnt/shared/kept; \
          mv /mnt/shared/kept /mnt/shared/moved; chmod 777 /mnt/shared/kept; mkdir /mnt/shared/d; \
          mount -o remount,rw /mnt/shared; mount -o remount,rw,bind /mnt/shared; \
        done 2>&1 | grep -c -i 'read-only'; \
        cat /mnt/shared/kept";
    let finished = machine
        .script(&["--mount", &spec], script)
        .run()?
        .expect_code(0)?;
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(
        (lines.first(), lines.last()),
        (Some(&"kept"), Some(&"kept")),
        "{}",
        finished.stdout
    );
    assert!(
        lines[1].parse::<u32>()? >= 10,
        "refusals seen: {}",
        finished.stdout
    );
    assert_eq!(fs_err::read_to_string(shared.join("kept"))?, "kept\n");
    assert_eq!(fs_err::read_dir(&shared)?.count(), 1, "nothing was added");
    Ok(())
}

#[test]
fn a_read_only_project_cannot_be_written() -> Result<()> {
    let machine = Machine::new()?;
    let finished = machine.script(&["--readonly"], "echo x > file").run()?;
    assert_ne!(finished.code, 0);
    assert!(
        finished.stderr.to_lowercase().contains("read-only"),
        "{}",
        finished.stderr
    );
    assert_eq!(fs_err::read_dir(machine.project())?.count(), 0);
    Ok(())
}

#[test]
fn the_root_file_system_is_writable_and_forgotten() -> Result<()> {
    let machine = Machine::new()?;
    let script = "test ! -e /usr/left && echo x > /usr/left && rm /etc/passwd; \
        while [ $(df -m / | tail -1 | awk '{print $2}') -lt 18000 ]; do sleep 0.1; done; df -m / | tail -1";
    for _ in 0..2 {
        let finished = machine
            .script(&["--disk", "20GiB"], script)
            .run()?
            .expect_code(0)?;
        let size: u64 = finished
            .stdout
            .split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .parse()?;
        assert!(
            (18_000..=20_480).contains(&size),
            "size in MiB: {}",
            finished.stdout
        );
    }
    Ok(())
}
