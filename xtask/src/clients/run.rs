//! Runs one case: a host home with the login, the fakes, the client in its namespace, then the checks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use agent_vm_test_support::canary::Canary;
use agent_vm_test_support::providers::{Account, Behaviour, HOSTS, Providers, ProvidersConfig};
use agent_vm_test_support::upstream::read_log;
use anyhow::{Context as _, Result};

use super::case::{Case, Special};
use super::check;
use super::install;
use super::outcome::Outcome;
use super::watch::Watch;
use crate::netns::NetnsRun;
use crate::shell;

/// What the fakes answer every prompt with.
pub(crate) const ANSWER: &str = "The fake upstream greets you.";

/// How long a client may take, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(300);

/// The places of one run.
pub(crate) struct Places {
    /// The user's home on the host.
    pub(crate) host: PathBuf,
    /// The project's directory, of host and guest.
    pub(crate) project: PathBuf,
    /// What is the guest's alone.
    pub(crate) guest: PathBuf,
    /// What was printed.
    pub(crate) said: PathBuf,
    /// What the fakes saw.
    pub(crate) log: PathBuf,
    /// Repositories at github.com.
    pub(crate) git_root: PathBuf,
}

impl Places {
    pub(super) fn make(directory: &Path) -> Result<Self> {
        let places = Self {
            host: directory.join("host"),
            project: directory.join("project"),
            guest: directory.join("guest"),
            said: directory.join("said"),
            log: directory.join("requests.jsonl"),
            git_root: directory.join("repositories"),
        };
        for place in [
            &places.host,
            &places.project,
            &places.guest,
            &places.said,
            &places.git_root,
        ] {
            fs_err::create_dir_all(place)?;
        }
        fs_err::write(&places.log, "")?;
        Ok(places)
    }
}

/// Runs `case`.
///
/// # Errors
/// When it cannot be run; what is wrong with a run is in the outcome.
pub(crate) fn one(case: &Case, agent_vm: &Path, keep: bool) -> Result<Outcome> {
    let program = install::program(case.program)?;
    let directory = directory(case, keep)?;
    let places = Places::make(directory.path())?;
    write_host_files(case, &places.host)?;
    make_repository(&places.git_root)?;
    let providers = Providers::start(ProvidersConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        log: places.log.clone(),
        ca_dir: directory.path().to_path_buf(),
        behaviour: behaviour(case, &places),
    })?;
    // What a search must find, so that finding nothing means something.
    let marker = Canary::mint("marker-");
    fs_err::write(places.project.join(".marker"), marker.token())?;
    let launch = launch_words(
        case,
        &program,
        &marker,
        (providers.address().port(), directory.path()),
    );
    let host_env = host_env(case, &places.host);
    let mut watch = Watch::new(LIMIT);
    let started = Instant::now();
    let status = NetnsRun {
        agent_vm,
        project: &places.project,
        launch: &launch,
        directory: &places.guest,
        host_env: Some(&host_env),
        said: Some(&places.said),
    }
    .run(&mut |namespace| watch.look(namespace));
    let took = started.elapsed();
    drop(providers);
    let requests = read_log(&places.log)?;
    let mut outcome = Outcome {
        took,
        requests: requests.len(),
        processes: watch.processes.len(),
        ..Outcome::default()
    };
    check::all(case, &places, (&requests, &watch, &marker), &mut outcome)?;
    match status {
        Ok(0) => {}
        Ok(status) => outcome.problems.push(format!("it ended with {status}")),
        Err(error) => outcome.problems.push(format!("{error:#}")),
    }
    if !outcome.problems.is_empty() {
        outcome.problems.push(said(&places));
    }
    Ok(outcome)
}

/// The directory of one run; what is to be kept is said.
pub(super) fn directory(case: &Case, keep: bool) -> Result<tempfile::TempDir> {
    let mut directory = tempfile::Builder::new().prefix("clients-").tempdir()?;
    if keep {
        directory.disable_cleanup(true);
        let path = directory.path().display();
        eprintln!("clients: {} runs in {path}", case.name);
    }
    Ok(directory)
}

/// The logins of the host, an hour old: one that was written a moment ago is not renewed when it is rejected.
pub(super) fn write_host_files(case: &Case, home: &Path) -> Result<()> {
    for (path, content) in &case.host_files {
        let path = home.join(path);
        fs_err::create_dir_all(path.parent().context("a file has a directory")?)?;
        fs_err::write(&path, content)?;
        let file = fs_err::File::options().write(true).open(&path)?;
        file.file()
            .set_modified(SystemTime::now() - Duration::from_secs(3600))?;
    }
    Ok(())
}

pub(super) fn behaviour(case: &Case, places: &Places) -> Behaviour {
    let accounts = case.logins.iter().map(|login| Account {
        service: login.service,
        access: login.access.clone(),
        refresh: login
            .refresh
            .as_ref()
            .map(|refresh| refresh.token().to_owned()),
        uses: login.uses,
    });
    Behaviour {
        answer: ANSWER.to_owned(),
        accounts: accounts.collect(),
        tool: case.special == Special::Tool,
        no_websocket: case.special == Special::NoWebSocket,
        git_root: Some(places.git_root.clone()),
    }
}

/// The options of the launch, and the command.
fn launch_words(
    case: &Case,
    program: &Path,
    marker: &Canary,
    (port, directory): (u16, &Path),
) -> Vec<String> {
    let ca = directory.join("upstream-ca.pem");
    let mut words = options(case, marker, (port, &ca));
    let temporary = directory.join("guest/tmp");
    words.extend([
        "--env".to_owned(),
        format!("TMPDIR={}", temporary.display()),
    ]);
    words.extend(["--", "sh", "-c", case.script, "client"].map(str::to_owned));
    words.push(program.display().to_string());
    words
}

/// The options of the launch: only the fakes are there, at this port of the loopback.
pub(super) fn options(case: &Case, marker: &Canary, (port, ca): (u16, &Path)) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(case.agent.map(str::to_owned));
    words.extend(["--policy", "allowlist"].map(str::to_owned));
    for host in HOSTS {
        words.extend(["--allow-domain".to_owned(), (*host).to_owned()]);
        words.extend([
            "--resolve".to_owned(),
            format!("{host}:443:127.0.0.1:{port}"),
        ]);
    }
    words.extend(["--upstream-ca".to_owned(), ca.display().to_string()]);
    words.extend(["--env".to_owned(), format!("MARKER={}", marker.token())]);
    words.extend(case.options.iter().cloned());
    words
}

fn host_env(case: &Case, home: &Path) -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut variables = vec![
        ("HOME".to_owned(), home.display().to_string()),
        ("PATH".to_owned(), path),
    ];
    let given = case.host_env.iter();
    variables.extend(given.map(|(name, value)| ((*name).to_owned(), value.clone())));
    variables
}

/// A bare repository with one commit at `canary-user/hello.git`.
fn make_repository(root: &Path) -> Result<()> {
    let bare = root.join("canary-user/hello.git");
    let git = |arguments: &[&str]| {
        let mut command = shell::tool("git");
        command.arg("-C").arg(&bare).args(arguments);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", root);
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A Person");
            command.env(format!("GIT_{who}_EMAIL"), "person@example.test");
        }
        shell::output(&mut command).map(|text| text.trim().to_owned())
    };
    fs_err::create_dir_all(&bare)?;
    git(&["init", "--quiet", "--bare", "--initial-branch=main", "."])?;
    let tree = git(&["hash-object", "-t", "tree", "-w", "/dev/null"])?;
    let commit = git(&["commit-tree", "-m", "first", &tree])?;
    git(&["update-ref", "refs/heads/main", &commit])?;
    Ok(())
}

/// The ends of what was printed.
pub(super) fn said(places: &Places) -> String {
    let mut text = String::new();
    for part in ["stdout", "stderr", "launcher"] {
        let all = fs_err::read(places.said.join(part)).unwrap_or_default();
        let end = String::from_utf8_lossy(&all[all.len().saturating_sub(1500)..]).into_owned();
        text.push_str(&format!("--- {part}\n{}\n", end.trim_end()));
    }
    text
}
