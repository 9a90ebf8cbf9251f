//! C1, C2, C6: the upstream gets the real token, the guest and the VMM never hold it.

use std::io::{BufRead as _, BufReader};

use agent_vm_boot_tests::{Machine, vmm_of};
use agent_vm_test_support::canary::Canary;
use agent_vm_test_support::upstream::Upstream;
use anyhow::{Context as _, Result};
use serde_json::Value;

fn resolve(name: &str, upstream: &Upstream) -> String {
    format!("{name}:443:{}", upstream.address())
}

fn header<'a>(request: &'a Value, name: &str) -> &'a str {
    request["headers"][name].as_str().unwrap_or_default()
}

#[test]
fn attaches_a_secret_at_its_host_and_shows_the_guest_only_a_placeholder() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test"])?;
    let canary = Canary::mint("canary-");
    let ca = machine.upstream_ca().display().to_string();
    let options = [
        "--secret",
        "TOK@api.example.test",
        "--resolve",
        &resolve("api.example.test", &upstream),
        "--upstream-ca",
        &ca,
    ];
    let script =
        "echo $TOK; curl -sS https://api.example.test/hello -H \"Authorization: Bearer $TOK\"";
    let finished = machine
        .script(&options, script)
        .env("TOK", canary.token())
        .run()?
        .expect_code(0)?;
    let (placeholder, body) = finished.stdout.split_once('\n').context("two lines")?;
    assert_eq!(body, "hello from api.example.test\n");
    assert!(
        placeholder.len() >= 16 && placeholder != canary.token(),
        "{placeholder}"
    );
    let requests = upstream.requests()?;
    assert_eq!(requests.len(), 1);
    assert_eq!(
        header(&requests[0], "authorization"),
        format!("Bearer {}", canary.token())
    );
    assert!(
        !requests[0].to_string().contains(placeholder),
        "the placeholder went upstream: {}",
        requests[0]
    );
    Ok(())
}

/// While the VM runs: the memory of the VMM, which holds all memory of the guest (page cache, environments, /proc),
/// then everything that is left: the shares, the session directory, the image store, the logs.
#[test]
fn a_real_token_is_in_no_byte_the_guest_or_the_vmm_can_see() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test", "api.anthropic.com"])?;
    let secret = Canary::mint("canary-secret-");
    let oauth = Canary::mint("sk-ant-oat01-canary-");
    let refresh = Canary::mint("sk-ant-ort01-canary-");
    let marker = Canary::mint("control-");
    plant_claude_login(&machine, &oauth, &refresh)?;
    let ca = machine.upstream_ca().display().to_string();
    let (first, second) = (
        resolve("api.example.test", &upstream),
        resolve("api.anthropic.com", &upstream),
    );
    let arguments = [
        "claude",
        "--mount",
        &machine.stand_in_claude()?,
        "--image",
        machine.image(),
        // Every byte of it is searched, and emulated searching is slow.
        "--memory",
        "256MiB",
        "--secret",
        "TOK@api.example.test",
        "--resolve",
        &first,
        "--resolve",
        &second,
        "--upstream-ca",
        &ca,
        "--env",
        &format!("MARKER={}", marker.token()),
        "--env",
        "BOOT_TEST=hold",
        "--verbose",
    ];
    let mut running = machine
        .agent_vm(&arguments)
        .env("TOK", secret.token())
        .start()?;
    let mut output = BufReader::new(running.stdout()?);
    let mut line = String::new();
    while !line.contains("holding") {
        line.clear();
        anyhow::ensure!(
            output.read_line(&mut line)? > 0,
            "the guest ended early: {:?}",
            running.finish()
        );
    }
    let vmm = vmm_of(running.pid())?;
    let (control, bytes) = marker.search_process(vmm)?;
    assert!(
        !control.is_empty(),
        "the search does not find what is there ({bytes} bytes searched)"
    );
    for canary in [&secret, &oauth, &refresh] {
        assert_absent(canary, vmm, &machine)?;
    }
    fs_err::write(machine.project().join("end"), "")?;
    let finished = running.finish()?.expect_code(0)?;
    for canary in [&secret, &oauth, &refresh] {
        assert_eq!(
            canary.search_bytes("stderr", finished.stderr.as_bytes()),
            []
        );
        assert_eq!(canary.search_tree(&machine.project())?, []);
    }
    let sent: Vec<String> = upstream
        .requests()?
        .iter()
        .map(|r| header(r, "authorization").to_owned())
        .collect();
    assert_eq!(
        sent,
        [
            format!("Bearer {}", oauth.token()),
            format!("Bearer {}", secret.token())
        ]
    );
    Ok(())
}

/// The canary is neither in the memory of the VMM nor in anything the launch wrote.
fn assert_absent(canary: &Canary, vmm: u32, machine: &Machine) -> Result<()> {
    let (seen, bytes) = canary.search_process(vmm)?;
    assert_eq!(
        seen,
        [],
        "{} is in the memory of the VMM ({bytes} bytes searched)",
        canary.token()
    );
    let runtime = machine.home().with_file_name("runtime");
    for place in [machine.project(), runtime, machine.home().join(".local")] {
        if place.exists() {
            assert_eq!(canary.search_tree(&place)?, [], "{}", canary.token());
        }
    }
    Ok(())
}

/// A login as Claude Code keeps it, with tokens of ours.
fn plant_claude_login(machine: &Machine, access: &Canary, refresh: &Canary) -> Result<()> {
    let login = serde_json::json!({"claudeAiOauth": {
        "accessToken": access.token(), "refreshToken": refresh.token(), "expiresAt": 4_000_000_000_000_u64,
        "scopes": ["user:inference", "user:profile"], "subscriptionType": "max", "rateLimitTier": "tier",
    }, "unrelated": refresh.token()});
    machine.make_directory(&machine.home().join(".claude"))?;
    machine.write(
        &machine.home().join(".claude/.credentials.json"),
        &login.to_string(),
        0o600,
    )
}

#[test]
fn an_api_key_in_the_environment_is_a_credential_like_any_other() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.anthropic.com"])?;
    let key = Canary::mint("sk-ant-api03-canary-");
    let ca = machine.upstream_ca().display().to_string();
    let arguments = [
        "claude",
        "--mount",
        &machine.stand_in_claude()?,
        "--image",
        machine.image(),
        "--resolve",
        &resolve("api.anthropic.com", &upstream),
        "--upstream-ca",
        &ca,
        "--env",
        "BOOT_TEST=key",
        "-p",
        "say hi",
    ];
    let finished = machine
        .agent_vm(&arguments)
        .env("ANTHROPIC_API_KEY", key.token())
        .run()?
        .expect_code(0)?;
    assert_eq!(key.search_bytes("stdout", finished.stdout.as_bytes()), []);
    assert!(
        finished.stdout.contains("<-p> <say hi>"),
        "the agent's arguments: {}",
        finished.stdout
    );
    let requests = upstream.requests()?;
    assert_eq!(requests.len(), 1, "{}", finished.stdout);
    assert_eq!(header(&requests[0], "x-api-key"), key.token());
    Ok(())
}
