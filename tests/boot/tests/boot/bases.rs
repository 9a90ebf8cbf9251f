//! B10 and the writable layer: what a setup script made is there in later launches, for its project only, whole or not
//! at all, and with nothing of the session that made it.

use std::path::{Path, PathBuf};

use agent_vm_boot_tests::{Finished, Machine};
use agent_vm_test_support::canary::Canary;
use anyhow::{Context as _, Result};
use serde_json::Value;

const SETTING_UP: &str = "setting up the base of this project";

fn project_script(machine: &Machine, directory: &Path, script: &str) -> Result<()> {
    machine.write(&directory.join(".agent-vm.setup.sh"), script, 0o644)
}

fn user_script(machine: &Machine, script: &str) -> Result<()> {
    let directory = machine.home().join(".config/agent-vm");
    machine.make_directory(&machine.home().join(".config"))?;
    machine.write(&directory.join("setup.sh"), script, 0o644)
}

fn bases(machine: &Machine) -> PathBuf {
    machine.home().join(".local/state/agent-vm/bases")
}

/// `agent-vm base ls --json`.
fn listed(machine: &Machine) -> Result<Vec<Value>> {
    let arguments = ["base", "ls", "--json", "--image", machine.image()];
    let told = machine.agent_vm(&arguments).run()?.expect_code(0)?.stdout;
    Ok(serde_json::from_str::<Value>(&told)?
        .as_array()
        .context("no list")?
        .clone())
}

fn states(machine: &Machine) -> Result<Vec<String>> {
    let text = |base: &Value| base["state"].as_str().unwrap_or_default().to_owned();
    Ok(listed(machine)?.iter().map(text).collect())
}

fn base(machine: &Machine, command: &[&str], input: &str) -> Result<Finished> {
    let mut arguments = vec!["base"];
    arguments.extend_from_slice(command);
    arguments.extend_from_slice(&["--image", machine.image()]);
    machine.agent_vm(&arguments).input(input.as_bytes()).run()
}

#[test]
fn a_setup_script_runs_once_and_later_launches_begin_with_what_it_made() -> Result<()> {
    let machine = Machine::new()?;
    let script =
        "pwd; echo run >> /opt/runs; touch refused 2>/dev/null || echo the project is read-only";
    project_script(&machine, &machine.project(), script)?;
    let first = machine.script(&[], "cat /opt/runs").run()?.expect_code(0)?;
    assert_eq!(first.stdout, "run\n", "the setup writes to standard error");
    for said in [
        SETTING_UP,
        "agent-vm: running .agent-vm.setup.sh",
        &format!("\n{}\n", machine.project().display()),
        "the project is read-only",
        "is ready",
    ] {
        assert!(first.stderr.contains(said), "{said}: {}", first.stderr);
    }
    // A change of a launch is forgotten, that of the setup is not.
    for _ in 0..2 {
        let next = machine.script(&[], "cat /opt/runs; echo lost >> /opt/runs");
        let next = next.run()?.expect_code(0)?;
        assert_eq!((next.stdout.as_str(), next.stderr.as_str()), ("run\n", ""));
    }
    assert_eq!(states(&machine)?, ["current"]);

    project_script(&machine, &machine.project(), "echo changed > /opt/runs")?;
    assert_eq!(states(&machine)?, ["stale"]);
    let changed = machine.script(&[], "cat /opt/runs").run()?.expect_code(0)?;
    assert_eq!(changed.stdout, "changed\n");
    assert!(
        changed
            .stderr
            .contains("is stale, its scripts or packages changed"),
        "{}",
        changed.stderr
    );
    let bare = machine.script(&["--no-setup"], "test ! -e /opt/runs");
    assert_eq!(bare.run()?.expect_code(0)?.stderr, "");
    Ok(())
}

#[test]
fn a_users_base_is_shared_and_a_projects_base_stands_on_it_and_is_its_own() -> Result<()> {
    let machine = Machine::new()?;
    let other = machine.home().with_file_name("other");
    machine.make_directory(&other)?;
    user_script(
        &machine,
        &format!(
            "#!/bin/bash\nset -e; test ! -e '{}'; pwd > /opt/user",
            machine.project().display()
        ),
    )?;
    project_script(
        &machine,
        &machine.project(),
        "set -e; cat /opt/user > /opt/project; echo mine >> /opt/project",
    )?;
    let script = "cat /opt/user; cat /opt/project 2>/dev/null || echo none";
    let first = machine.script(&[], script).run()?.expect_code(0)?;
    assert_eq!(first.stdout, "/root\n/root\nmine\n");
    assert!(first.stderr.contains("setting up your base: setup.sh"));
    assert!(first.stderr.contains(SETTING_UP));

    let elsewhere = machine.script(&[], script).current_dir(&other);
    let elsewhere = elsewhere.run()?.expect_code(0)?;
    assert_eq!(
        (elsewhere.stdout.as_str(), elsewhere.stderr.as_str()),
        ("/root\nnone\n", "")
    );
    // The very same script makes a base of its own for another project.
    let same = fs_err::read_to_string(machine.project().join(".agent-vm.setup.sh"))?;
    project_script(&machine, &other, &same)?;
    let again = machine.script(&[], script).current_dir(&other);
    let again = again.run()?.expect_code(0)?;
    assert!(again.stderr.contains(SETTING_UP) && !again.stderr.contains("your base"));

    user_script(&machine, "echo new > /opt/user")?;
    let changed = machine.script(&[], script).run()?.expect_code(0)?;
    assert_eq!(changed.stdout, "new\nnew\nmine\n");
    assert!(
        changed
            .stderr
            .contains("is stale, what it stands on changed")
    );
    Ok(())
}

#[test]
fn a_failing_setup_stops_the_launch_and_leaves_nothing() -> Result<()> {
    let machine = Machine::new()?;
    project_script(
        &machine,
        &machine.project(),
        "echo working; echo half > /opt/half; exit 7",
    )?;
    for _ in 0..2 {
        let failed = machine.script(&[], "echo ran").run()?.expect_code(125)?;
        assert_eq!(failed.stdout, "");
        for said in [
            SETTING_UP,
            "working\n",
            "agent-vm: .agent-vm.setup.sh ended with exit code 7",
            "error: the setup of the project's base ended with exit code 7; nothing of it is kept",
            "--no-setup",
        ] {
            assert!(failed.stderr.contains(said), "{said}: {}", failed.stderr);
        }
    }
    assert_eq!(listed(&machine)?, Vec::<Value>::new());
    let bare = machine.script(&["--no-setup"], "test ! -e /opt/half; echo ran");
    assert_eq!(bare.run()?.expect_code(0)?.stdout, "ran\n");
    Ok(())
}

#[test]
fn a_base_grows_to_the_size_of_the_launch() -> Result<()> {
    let machine = Machine::new()?;
    project_script(&machine, &machine.project(), "echo made > /opt/made")?;
    let script = "cat /opt/made; \
        while [ $(df -m / | tail -1 | awk '{print $2}') -lt 18000 ]; do sleep 0.1; done; echo grown";
    base(&machine, &["apply", "--disk", "2GiB"], "")?.expect_code(0)?;
    let grown = machine.script(&["--disk", "20GiB"], script).run()?;
    assert_eq!(grown.expect_code(0)?.stdout, "made\ngrown\n");
    let smaller = machine.script(&["--disk", "1GiB"], "cat /opt/made").run()?;
    let smaller = smaller.expect_code(0)?;
    assert_eq!(smaller.stdout, "made\n");
    assert!(
        smaller
            .stderr
            .contains("the disk has 2GiB, because its base has")
    );
    Ok(())
}

/// All bytes of the kept disk are searched, those of deleted files too.
#[test]
fn nothing_of_the_session_is_in_a_base() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test"])?;
    let secret = Canary::mint("canary-");
    let control = Canary::mint("control-");
    let ca = machine.upstream_ca().display().to_string();
    let resolve = format!("api.example.test:443:{}", upstream.address());
    let options = [
        "apply",
        "--secret",
        "TOK@api.example.test",
        "--resolve",
        &resolve,
        "--upstream-ca",
        &ca,
    ];
    let script = format!(
        "set -e; echo {} > /opt/control; echo \"placeholder: $TOK\"; \
         echo \"authority: $(tail -n 3 /run/agent-vm/ca.pem | head -n 1)\"; \
         curl -sS https://api.example.test/hello -H \"Authorization: Bearer $TOK\"",
        control.token()
    );
    project_script(&machine, &machine.project(), &script)?;
    let apply = |options: &[&str]| -> Result<Finished> {
        let mut arguments = vec!["base"];
        arguments.extend_from_slice(options);
        arguments.extend_from_slice(&["--image", machine.image()]);
        machine
            .agent_vm(&arguments)
            .env("TOK", secret.token())
            .run()
    };
    let made = apply(&options)?.expect_code(0)?;
    assert!(made.stderr.contains("hello from api.example.test"));
    let told = |name: &str| {
        let line = made.stderr.lines().find_map(|line| line.strip_prefix(name));
        line.map(|text| Canary::new(text.trim().to_owned()))
            .with_context(|| format!("{name} in {}", made.stderr))
    };
    let (placeholder, authority) = (told("placeholder:")?, told("authority:")?);
    assert_ne!(
        control.search_tree(&bases(&machine))?,
        [],
        "the search finds what is there"
    );
    for absent in [&secret, &placeholder, &authority] {
        assert_eq!(
            absent.search_tree(&bases(&machine))?,
            [],
            "{}",
            absent.token()
        );
    }
    // The launch that uses the base has the certificate of its own session.
    let kept = machine
        .script(&[], "cat /opt/control; cat /etc/ssl/certs/*")
        .run()?;
    let kept = kept.expect_code(0)?;
    assert!(kept.stdout.contains(control.token()));
    assert!(!authority.is_in(&kept.stdout) && !placeholder.is_in(&kept.stdout));

    project_script(&machine, &machine.project(), "echo $TOK > /opt/config")?;
    let refused = apply(&options)?.expect_code(125)?;
    assert!(
        refused
            .stderr
            .contains("left the placeholder of TOK on its disk"),
        "{}",
        refused.stderr
    );
    Ok(())
}

#[test]
fn changes_by_hand_are_kept_when_asked_for_and_used_until_the_base_changes() -> Result<()> {
    let machine = Machine::new()?;
    project_script(&machine, &machine.project(), "echo setup > /opt/made")?;
    let look = || machine.script(&[], "cat /opt/made").run()?.expect_code(0);
    let dropped = base(&machine, &["shell"], "echo draft >> /opt/made; exit 3\n")?;
    let dropped = dropped.expect_code(3)?;
    assert!(
        dropped.stderr.contains("the changes are not kept"),
        "{}",
        dropped.stderr
    );
    assert_eq!(look()?.stdout, "setup\n");
    assert_eq!(
        states(&machine)?
            .iter()
            .filter(|state| *state == "draft")
            .count(),
        1
    );
    base(&machine, &["snapshot"], "")?.expect_code(0)?;
    assert_eq!(look()?.stdout, "setup\ndraft\n");
    base(&machine, &["snapshot"], "")?.expect_code(125)?;
    base(&machine, &["shell", "--keep"], "echo more >> /opt/made\n")?.expect_code(0)?;
    assert_eq!(look()?.stdout, "setup\ndraft\nmore\n");

    project_script(&machine, &machine.project(), "echo other > /opt/made")?;
    let changed = look()?;
    assert_eq!(changed.stdout, "other\n");
    assert!(
        changed
            .stderr
            .contains("changes kept in the base of this project are not used"),
        "{}",
        changed.stderr
    );
    let reset = machine.agent_vm(&["base", "reset"]).run()?.expect_code(0)?;
    assert!(reset.stderr.contains("removed"), "{}", reset.stderr);
    assert_eq!(listed(&machine)?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn launches_at_once_share_one_setup() -> Result<()> {
    let machine = Machine::new()?;
    project_script(
        &machine,
        &machine.project(),
        "echo once; sleep 1; echo made > /opt/made",
    )?;
    let running = [
        machine.script(&[], "cat /opt/made").start()?,
        machine.script(&[], "cat /opt/made").start()?,
    ];
    let mut said = String::new();
    for running in running {
        let finished = running.finish()?.expect_code(0)?;
        assert_eq!(finished.stdout, "made\n");
        said.push_str(&finished.stderr);
    }
    assert_eq!(said.matches(SETTING_UP).count(), 1, "{said}");
    assert_eq!(said.matches("once\n").count(), 1, "{said}");
    assert!(said.contains("waiting for another launch"), "{said}");
    Ok(())
}

#[test]
fn a_launcher_killed_in_a_setup_leaves_nothing_that_hinders_the_next() -> Result<()> {
    let machine = Machine::new()?;
    project_script(
        &machine,
        &machine.project(),
        "echo half > /opt/half; sync; sleep 600",
    )?;
    let running = machine.script(&[], "true").start()?;
    let sessions = machine.home().join(".local/state/agent-vm/sessions");
    let since = std::time::Instant::now();
    // The disk is there as soon as the setup's machine is being made.
    while !has_disk(&sessions) {
        assert!(since.elapsed().as_secs() < 240, "the setup does not begin");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    let killed = std::process::Command::new("kill")
        .args(["-9", &running.pid().to_string()])
        .status()?;
    assert!(killed.success());
    running.finish()?.expect_code(137)?;
    assert_eq!(listed(&machine)?, Vec::<Value>::new());

    project_script(
        &machine,
        &machine.project(),
        "test ! -e /opt/half && echo whole > /opt/made",
    )?;
    let next = machine.script(&[], "cat /opt/made").run()?.expect_code(0)?;
    assert_eq!(next.stdout, "whole\n");
    let left: Vec<_> = fs_err::read_dir(bases(&machine))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("new-"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

fn has_disk(sessions: &Path) -> bool {
    let entries = fs_err::read_dir(sessions).into_iter().flatten().flatten();
    entries
        .into_iter()
        .any(|entry| entry.path().join("disk.ext4").exists())
}

/// What Docker does with its layers: changes of an overlay in its data root. On the root, an overlay itself, that fails.
#[test]
fn dockers_data_root_is_no_overlay_and_part_of_the_base() -> Result<()> {
    let machine = Machine::new()?;
    let script = "set -e; for root in /var/lib/docker /var/lib/containerd; do \
          mkdir $root/lower $root/upper $root/work $root/merged; echo below > $root/lower/file; \
          mount -t overlay overlay -o lowerdir=$root/lower,upperdir=$root/upper,workdir=$root/work $root/merged; \
          echo changed >> $root/merged/file; rm -f $root/merged/none; umount $root/merged; done; \
        stat -f -c %T /var/lib/docker; stat -c %a /var/lib/docker /var/lib/containerd";
    project_script(&machine, &machine.project(), script)?;
    let look = "cat /var/lib/docker/upper/file /var/lib/containerd/upper/file; \
        mkdir -p /opt/l /opt/u /opt/w /opt/m; \
        mount -t overlay overlay -o lowerdir=/opt/l,upperdir=/opt/u,workdir=/opt/w /opt/m 2>/dev/null || echo refused";
    let kept = machine.script(&[], look).run()?.expect_code(0)?;
    assert_eq!(
        kept.stdout, "below\nchanged\nbelow\nchanged\nrefused\n",
        "{}",
        kept.stderr
    );
    assert!(
        kept.stderr.contains("ext2/ext3\n710\n711\n"),
        "{}",
        kept.stderr
    );
    Ok(())
}
