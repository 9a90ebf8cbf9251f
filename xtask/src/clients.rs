//! `clients`: the real agent clients, `gh` and `git`, each for one prompt behind the real gateway and egress, against fakes
//! of the services they talk to (`tests/support/src/providers.rs`). The guest is a namespace of `netns`, or with `--lab` a
//! real virtual machine in the emulated host.
//!
//! Each case has a host home with a login that exists nowhere else. Its run has passed when the client ended with 0 and
//! printed the answer, the fake saw the real token where it belongs, and a search for it in everything of the guest's (files,
//! output, environment and arguments of its processes), in the audit log and in what else the fake saw finds nothing.

mod case;
mod check;
mod install;
mod lab;
mod outcome;
mod run;
mod table;
mod watch;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ci::TestsFailed;
use crate::totals::Totals;
use crate::{build, setup};

use case::Case;

#[derive(Debug, Args)]
pub(crate) struct ClientsArguments {
    /// Only these cases; `claude-` are all whose names begin so. All when none is given.
    names: Vec<String>,
    /// Only what needs no download: git, gh, curl, Python, Java and the like.
    #[arg(long)]
    light: bool,
    /// In real virtual machines in the emulated host; minutes for each case.
    #[arg(long)]
    lab: bool,
    /// Keep the directory of each run and say where it is.
    #[arg(long)]
    keep: bool,
    /// Only name the cases.
    #[arg(long)]
    list: bool,
}

/// The task.
///
/// # Errors
/// When nothing can be run at all; a case that failed is the exit code.
pub(crate) fn run(arguments: &ClientsArguments) -> Result<ExitCode> {
    let chosen = |case: &Case| {
        let means = |name: &String| {
            case.name == name || name.ends_with('-') && case.name.starts_with(name.as_str())
        };
        let named = arguments.names.iter().any(means);
        (arguments.names.is_empty() || named) && (!arguments.light || case.is_light())
    };
    let cases: Vec<Case> = table::cases().into_iter().filter(chosen).collect();
    if cases.is_empty() {
        bail!("no case has such a name");
    }
    if arguments.list {
        for case in &cases {
            println!("{:<24}{}", case.name, case.shows);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (totals, _failed) = if arguments.lab {
        each(&cases, &lab::Lab::prepare()?, |lab, case| {
            lab.one(case, arguments.keep)
        })
    } else {
        setup::run()?;
        let agent_vm = build::agent_vm()?;
        each(&cases, &agent_vm, |agent_vm, case| {
            run::one(case, agent_vm, arguments.keep)
        })
    };
    Ok(if totals.failed == 0 && totals.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Those cases that `ci` runs.
///
/// # Errors
/// When a case failed or nothing can be run.
pub(crate) fn light() -> Result<Totals> {
    let cases: Vec<Case> = table::cases().into_iter().filter(Case::is_light).collect();
    let agent_vm = build::agent_vm()?;
    let (totals, names) = each(&cases, &agent_vm, |agent_vm, case| {
        run::one(case, agent_vm, false)
    });
    if totals.failed > 0 {
        return Err(TestsFailed { totals, names }.into());
    }
    Ok(totals)
}

/// Runs the cases one after the other and says what became of each; gives the names of those that failed, with the first
/// line of why.
fn each<With>(
    cases: &[Case],
    with: &With,
    one: impl Fn(&With, &Case) -> Result<outcome::Outcome>,
) -> (Totals, Vec<String>) {
    let mut totals = Totals::default();
    let mut failed = Vec::new();
    for case in cases {
        let outcome = one(with, case);
        let why = match &outcome {
            Ok(outcome) => outcome.problems.first().cloned(),
            Err(error) => Some(format!("{error:#}")),
        };
        match why {
            None => totals.passed += 1,
            Some(why) => {
                totals.failed += 1;
                let first = why.lines().next().unwrap_or_default();
                failed.push(format!("clients::{} ({first})", case.name));
            }
        }
        println!("{}", outcome::line(case, &outcome));
    }
    println!("clients: {totals}");
    (totals, failed)
}
