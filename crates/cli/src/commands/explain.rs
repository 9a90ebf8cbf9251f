//! `explain` and `--dry-run`: prints the plan that a launch enforces, without starting anything.

use std::fmt::Write as _;

use agent_vm_image::{Reference, Store};
use agent_vm_launch::{
    AutoPublish, KeyAgents, LaunchRequest, MAX_MIRRORED, Mount, Plan, PlannedCredential,
    PlannedNetwork, PlannedProxies, ShareAccess,
};
use agent_vm_policy::{HOST_SERVICE_NAME, HostPattern, Preset};

use crate::args::{ByteSize, ExplainArgs, Target};
use crate::command_error::{CommandError, UsageError};
use crate::commands::run_agent::tell_notices;
use crate::host_facts::HostFacts;
use crate::launch_request::{ConfiguredSecrets, Context, Typed, build};
use crate::preflight::kernel_for_plan;
use crate::publish_settings::described;
use crate::settings::Settings;
use crate::ui::{self, Ui, harmless};

/// Hosts of the built-in list that are shown in one line.
const BUILTIN_IN_A_LINE: usize = 4;

/// How the plan is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// `agent-vm explain`.
///
/// # Errors
/// Whatever would stop a launch and needs no machine to be found.
pub(crate) fn run(context: &Context, args: &ExplainArgs, ui: Ui) -> Result<u8, CommandError> {
    let target = args.target.unwrap_or(Target::Shell);
    let placeholder = ["CMD".into()];
    let arguments = match (target, args.launch.arguments.as_slice()) {
        (Target::Run, []) => &placeholder[..],
        (_, arguments) => arguments,
    };
    let typed = Typed {
        target,
        shell_agent: None,
        options: &args.launch.options,
        arguments,
        configured: ConfiguredSecrets::Given,
    };
    explain(
        context,
        &typed,
        if args.json {
            Format::Json
        } else {
            Format::Text
        },
        ui,
    )
}

/// Prints the plan of what was typed, and beside it what the launch would tell of its credentials.
///
/// # Errors
/// As [`run`].
pub(crate) fn explain(
    context: &Context,
    typed: &Typed<'_>,
    format: Format,
    ui: Ui,
) -> Result<u8, CommandError> {
    let settings = Settings::resolve(typed.options, &context.env, &HostFacts::read())?;
    let kernel = kernel_for_plan(context);
    let request = build(context, typed, settings, kernel)?;
    let plan = Plan::new(&request, digest(&request)?);
    tell_notices(&request, typed, ui);
    let text = match format {
        Format::Text => render(&plan),
        Format::Json => {
            serde_json::to_string_pretty(&plan)
                .expect("a plan holds only text keys and UTF-8 paths")
                + "\n"
        }
    };
    ui::data(&text).map_err(UsageError::Output)?;
    Ok(0)
}

/// What the store says the image is; nothing is made when there is no store.
fn digest(request: &LaunchRequest) -> Result<Option<String>, CommandError> {
    let reference: Reference = request.image.reference.parse()?;
    if !request.image.store.is_dir() {
        return Ok(None);
    }
    let image = Store::open(&request.image.store)?.image(&reference)?;
    Ok(image.map(|image| image.digest.to_string()))
}

fn render(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:<12}{}", harmless(value)).expect("writing to a String cannot fail");
    };
    let origin = |name: &str| match plan.origins.get(name) {
        Some(origin) => format!("  ({origin})"),
        None => String::new(),
    };
    line("program", &plan.program.argv.join(" ").replace('\n', " "));
    line(
        "directory",
        &plan.program.working_directory.display().to_string(),
    );
    line(
        "image",
        &format!("{}{}", plan.image.reference, origin("image")),
    );
    line(
        "",
        plan.image
            .digest
            .as_deref()
            .unwrap_or("not on this machine: `agent-vm pull` gets it"),
    );
    for (name, steps) in [("setup", &plan.setup.user), ("", &plan.setup.project)] {
        list(&mut line, name, steps.iter().cloned());
    }
    if plan.setup.ignored {
        line("setup", "none: the bare image  (--no-setup)");
    }
    let machine = &plan.machine;
    let memory = ByteSize::from_mib(machine.memory_mib.into());
    line("memory", &format!("{memory}{}", origin("memory")));
    line(
        "processors",
        &format!("{}{}", machine.vcpus, origin("cpus")),
    );
    let disk = ByteSize::from_mib(machine.disk_bytes >> 20);
    line("disk", &format!("{disk}{}", origin("disk")));
    line("kernel", &machine.kernel.display().to_string());
    files(&mut line, plan);
    list(
        &mut line,
        "credentials",
        plan.credentials.iter().map(credential),
    );
    list(&mut line, "agents", agents(&plan.key_agents).into_iter());
    network(&mut line, &plan.network, &origin("policy"));
    list(
        &mut line,
        "proxy",
        proxies(&plan.network.proxies).into_iter(),
    );
    let hosts = |hosts: &[HostPattern]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    list(
        &mut line,
        "intercepted",
        hosts(&plan.network.intercepted).into_iter(),
    );
    let published = plan.network.publish.ports.iter().map(described);
    let mirrored = plan.network.publish.auto.iter().map(mirrored);
    list(&mut line, "published", published.chain(mirrored));
    let overrides = plan.network.resolve.iter();
    let overrides = overrides.map(|o| format!("{}:{} at {}", o.host, o.port, o.address));
    list(&mut line, "addresses", overrides);
    if plan.network.extra_upstream_ca {
        line("authorities", "this host's, and those of --upstream-ca");
    }
    list(&mut line, "variables", plan.program.env.iter().cloned());
    list(
        &mut line,
        "files",
        plan.program.files.iter().map(|file| format!("~/{file}")),
    );
    text
}

/// What may be reached: the policy in force, then each grant.
fn network(line: &mut impl FnMut(&str, &str), network: &PlannedNetwork, origin: &str) {
    let none = !network.lan && !network.host && network.egress.is_empty();
    let policy = match network.policy {
        Preset::Public if none => {
            "public addresses and DNS; nothing of this host, no private network".to_owned()
        }
        Preset::Public => "public addresses and DNS".to_owned(),
        Preset::Allowlist => "listed hosts and those with a credential; no other name".to_owned(),
        Preset::Ask => {
            "listed hosts and those with a credential; you are asked about others".to_owned()
        }
        Preset::Offline => "offline: no address, no name".to_owned(),
    };
    let origin = if origin == "  (default)" { "" } else { origin };
    line("network", &format!("{policy}{origin}"));
    for domain in &network.domains {
        line("", &format!("listed {domain}"));
    }
    for hosts in network.builtin.chunks(BUILTIN_IN_A_LINE) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        line("", &format!("built-in {}", hosts.join(" ")));
    }
    for rule in &network.rules {
        line("", &format!("{rule}  ({})", rule.name));
    }
    for rule in &network.egress {
        line("", &format!("also {rule}  (--allow-egress)"));
    }
    if network.lan {
        line("", "also private networks  (--allow-lan)");
    }
    if network.host {
        line(
            "",
            &format!("also services of this host as {HOST_SERVICE_NAME}  (--allow-host)"),
        );
    }
    if network.foreign_credentials {
        line(
            "",
            "logins of the guest's own at hosts with a credential  (--allow-foreign-credentials)",
        );
    }
    if let Some(scope) = &network.project {
        line(
            "",
            &format!("narrowed to {}  (.agent-vm.toml)", scope.preset),
        );
        for domain in &scope.domains {
            line("", &format!("narrowed to {domain}"));
        }
        if !scope.builtin.is_empty() {
            line("", "narrowed to the built-in list");
        }
    }
}

/// Files of the host that the guest sees, and what of them it cannot change.
fn files(line: &mut impl FnMut(&str, &str), plan: &Plan) {
    list(line, "mounts", plan.mounts.iter().map(mount));
    let protected = plan.protected.iter();
    let protected = protected.map(|path| format!("{} (read-only)", path.display()));
    list(line, "protected", protected);
}

/// Agents of the host, and which of their keys.
fn agents(agents: &KeyAgents) -> Vec<String> {
    let ssh = agents.ssh.as_ref().map(|ssh| {
        let keys: Vec<String> = ssh.keys.iter().map(ToString::to_string).collect();
        match keys.is_empty() {
            true => "SSH: sign with every key".to_owned(),
            false => format!("SSH: sign with {}", keys.join(", ")),
        }
    });
    let gpg = agents.gpg.as_ref();
    let gpg = gpg.map(|_| "GPG: sign and decrypt, as far as gpg lets remote users".to_owned());
    ssh.into_iter().chain(gpg).collect()
}

/// The proxies that connections go through.
fn proxies(proxies: &PlannedProxies) -> Vec<String> {
    let servers = [
        (&proxies.http, "for plain HTTP"),
        (&proxies.https, "for all else"),
        (&proxies.all, "where no other is named"),
    ];
    let named = servers.into_iter().filter_map(|(server, purpose)| {
        let server = server.as_ref()?;
        Some(format!("{server} {purpose}"))
    });
    let mut lines: Vec<String> = named.collect();
    if !lines.is_empty() && !proxies.except.is_empty() {
        lines.push(format!("not for {}", proxies.except));
    }
    lines
}

fn mirrored(auto: &AutoPublish) -> String {
    let except: Vec<String> = auto.except.iter().map(ToString::to_string).collect();
    let except = match except.as_slice() {
        [] => String::new(),
        ports => format!(", except {}", ports.join(", ")),
    };
    format!("127.0.0.1 has every TCP port the guest listens at, at most {MAX_MIRRORED}{except}")
}

/// The first value beside the name, the others below it.
fn list(line: &mut impl FnMut(&str, &str), name: &str, values: impl Iterator<Item = String>) {
    for (index, value) in values.enumerate() {
        line(if index == 0 { name } else { "" }, &value);
    }
}

fn mount(mount: &Mount) -> String {
    let access = match mount.access {
        ShareAccess::ReadOnly => "read-only",
        ShareAccess::ReadWrite => "read-write",
    };
    if mount.host == mount.guest {
        format!("{} ({access})", mount.host.display())
    } else {
        format!(
            "{} at {} ({access})",
            mount.host.display(),
            mount.guest.display()
        )
    }
}

fn credential(credential: &PlannedCredential) -> String {
    let hosts: Vec<String> = credential.hosts.iter().map(ToString::to_string).collect();
    let target = if hosts.is_empty() {
        "never sent anywhere".to_owned()
    } else {
        format!(
            "sent to {} in the header {}",
            hosts.join(", "),
            credential.header.name
        )
    };
    format!("{} from {}: {target}", credential.name, credential.source)
}
