//! D1, D2, D7, D9, D10 and C2 against guest root: what is not allowed is refused at once and written to the audit log.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use agent_vm_boot_tests::{Finished, Machine, scaled};
use agent_vm_test_support::canary::Canary;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Runs a script and gives what it printed and the audit lines of the machine's sessions.
fn audited(machine: &Machine, options: &[&str], script: &str) -> Result<(Finished, Vec<Value>)> {
    let token = Canary::mint("canary-");
    let finished = machine
        .script(options, script)
        .env("TOK", token.token())
        .run()?
        .expect_code(0)?;
    let events = machine.audit_log()?;
    assert!(
        !token.is_in(&serde_json::to_string(&events)?),
        "the token is in the audit log"
    );
    Ok((finished, events))
}

fn denials<'a>(events: &'a [Value], field: &str, value: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| {
            event["verdict"] == "deny" && event[field].as_str().is_some_and(|text| text == value)
        })
        .collect()
}

#[test]
fn addresses_that_are_not_public_are_refused_in_every_notation() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test"])?;
    let port = upstream.plain_address().context("plain")?.port();
    let hosts = [
        "10.118.0.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fd76:6d00::1]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "192.168.1.1",
        "10.0.0.1",
        "100.64.0.1",
        "224.0.0.1",
    ];
    // 127.0.0.1 and 0.0.0.0 are the guest itself to the guest's kernel: nothing of them reaches the gateway, so they
    // are sent to the card by hand, as guest root can.
    let mut script = String::from("ip route add 0.0.0.0/32 dev eth0 2>/dev/null; ");
    for host in hosts {
        script.push_str(&format!(
            "curl -sS -g -m 20 -o /dev/null http://{host}:{port}/ 2>&1 | grep -q . && echo 'refused {host}'; "
        ));
    }
    let (finished, events) = audited(&machine, &[], &script)?;
    let refused = finished
        .stdout
        .lines()
        .filter(|line| line.starts_with("refused"))
        .count();
    assert_eq!(refused, hosts.len(), "{}", finished.stdout);
    assert_eq!(
        upstream.requests()?,
        Vec::<Value>::new(),
        "something reached the host's loopback"
    );
    for address in [
        "169.254.169.254",
        "192.168.1.1",
        "10.0.0.1",
        "100.64.0.1",
        "10.118.0.1",
    ] {
        assert!(
            !denials(&events, "address", address).is_empty(),
            "{address} is not in the log: {events:?}"
        );
    }
    assert!(denials(&events, "verdict", "deny").len() >= 9, "{events:?}");
    Ok(())
}

#[test]
fn other_name_servers_are_refused_and_datagrams_pass_where_the_address_decides() -> Result<()> {
    let machine = Machine::new()?;
    let server = UdpSocket::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (received, guest) = server.recv_from(&mut buffer)?;
        server.send_to(b"answered\n", guest)?;
        std::io::Result::Ok(buffer[..received].to_vec())
    });
    let options = [
        "--allow-host",
        "--secret",
        "TOK@api.example.test",
        "--resolve",
        "api.example.test:443:127.0.0.1:9",
    ];
    let script = format!(
        "nslookup example.com 8.8.8.8 >/dev/null 2>&1 && echo LEAK dns; \
        ping -c 1 -W 5 10.0.0.1 >/dev/null 2>&1 && echo LEAK icmp; \
        ping -6 -c 1 -W 5 fd00:ec2::254 >/dev/null 2>&1 && echo LEAK icmp6; \
        bash -c 'echo x > /dev/udp/api.example.test/443'; \
        bash -c 'echo x > /dev/udp/169.254.169.254/9999'; \
        bash -c 'echo x > /dev/udp/8.8.4.4/9999'; \
        bash -c 'exec 3<>/dev/udp/host.agent-vm.internal/{port}; echo asked >&3; timeout 60 head -n 1 <&3'"
    );
    let (finished, events) = audited(&machine, &options, &script)?;
    assert_eq!(finished.stdout, "answered\n");
    assert_eq!(
        answering.join().expect("it only receives and sends")?,
        b"asked\n"
    );
    for address in ["8.8.8.8", "10.0.0.1", "fd00:ec2::254", "169.254.169.254"] {
        assert!(
            !denials(&events, "address", address).is_empty(),
            "{address} is not in the log: {events:?}"
        );
    }
    let udp = |port: u16| {
        let of_port = |event: &&Value| event["protocol"] == "udp" && event["port"] == port;
        events
            .iter()
            .find(of_port)
            .map(|event| event["verdict"].clone())
    };
    assert_eq!(udp(443), Some("deny".into()), "{events:?}");
    assert_eq!(udp(port), Some("tunnel".into()), "{events:?}");
    let public = |event: &Value| event["address"] == "8.8.4.4" && event["verdict"] != "deny";
    assert!(events.iter().any(public), "{events:?}");
    Ok(())
}

#[test]
fn a_placeholder_anywhere_but_its_place_is_refused_and_never_leaves() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test", "other.example.test"])?;
    let ca = machine.upstream_ca().display().to_string();
    let api = format!("api.example.test:443:{}", upstream.address());
    let other = format!("other.example.test:443:{}", upstream.address());
    let plain = format!(
        "plain.example.test:80:{}",
        upstream.plain_address().context("plain")?
    );
    let options = [
        "--secret",
        "TOK@api.example.test",
        "--secret",
        "TWO=env:TOK@other.example.test",
        "--resolve",
        &api,
        "--resolve",
        &other,
        "--resolve",
        &plain,
        "--upstream-ca",
        &ca,
    ];
    let script = "c() { echo \"$(curl -sS -m 60 -o /tmp/body -D /tmp/head -w '%{http_code}' \"$@\" 2>/dev/null) \
              $(grep -i x-agent-vm-deny /tmp/head | tr -d '\\r')\"; rm -f /tmp/head; }; \
        c https://api.example.test/ -H \"Authorization: Bearer $TOK\"; \
        c https://api.example.test/ -H \"X-Other: $TOK\"; \
        c https://api.example.test/?q=$TOK; \
        c https://api.example.test/$TOK; \
        c https://other.example.test/ -H \"Authorization: Bearer $TOK\"; \
        c https://api.example.test/ -H 'Host: other.example.test' -H \"Authorization: Bearer $TOK\"; \
        c http://plain.example.test/ -H \"Authorization: Bearer $TOK\"; \
        c https://api.example.test/ -u \"user:$TOK\"";
    let (finished, events) = audited(&machine, &options, script)?;
    let codes: Vec<&str> = finished
        .stdout
        .lines()
        .map(|line| line.split(' ').next().unwrap_or_default())
        .collect();
    assert_eq!(
        codes,
        ["200", "403", "403", "403", "403", "403", "403", "200"],
        "{}",
        finished.stdout
    );
    assert_eq!(
        finished.stdout.matches("x-agent-vm-deny").count(),
        6,
        "{}",
        finished.stdout
    );
    let requests = upstream.requests()?;
    assert_eq!(
        requests.len(),
        2,
        "only the two proper requests reached the upstream: {requests:?}"
    );
    let denied = events
        .iter()
        .filter(|event| event["verdict"] == "deny")
        .count();
    assert!(denied >= 6, "{events:?}");
    Ok(())
}

#[test]
fn an_unverified_upstream_is_a_bad_gateway_never_a_downgrade() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["api.example.test"])?;
    let api = format!("api.example.test:443:{}", upstream.address());
    let script = "curl -sS -o /dev/null -w '%{http_code}' https://api.example.test/ -H \"Authorization: Bearer $TOK\"";
    let (finished, _) = audited(
        &machine,
        &["--secret", "TOK@api.example.test", "--resolve", &api],
        script,
    )?;
    assert_eq!(finished.stdout, "502");
    assert_eq!(upstream.requests()?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn hosts_without_a_rule_keep_their_own_certificate() -> Result<()> {
    let machine = Machine::new()?;
    let upstream = machine.upstream(&["plain.example.test"])?;
    let spliced = format!("plain.example.test:443:{}", upstream.address());
    // Only the upstream's own authority is trusted here: an interception would fail.
    fs_err::copy(machine.upstream_ca(), machine.project().join("only.pem"))?;
    let script = "curl -sS --cacert only.pem https://plain.example.test/";
    let (finished, events) = audited(&machine, &["--resolve", &spliced], script)?;
    assert_eq!(finished.stdout, "hello from plain.example.test\n");
    assert!(
        events
            .iter()
            .any(|event| event["host"] == "plain.example.test" && event["verdict"] != "deny"),
        "{events:?}"
    );
    Ok(())
}

/// The questions of the machine's session, once there is one about `host`.
fn asked_about(machine: &Machine, host: &str) -> Result<Value> {
    let started = Instant::now();
    while started.elapsed() < scaled(Duration::from_secs(30)) {
        let listed = machine.agent_vm(&["egress", "pending", "--json"]).run()?;
        let listed = listed.expect_code(0)?;
        let sessions: Vec<Value> = serde_json::from_str(&listed.stdout)?;
        let mut questions = sessions
            .iter()
            .flat_map(|session| session["pending"].as_array().into_iter().flatten());
        if let Some(question) = questions.find(|question| question["host"] == host) {
            return Ok(question.clone());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("nothing waits for {host}")
}

#[test]
fn asks_the_person_in_another_terminal_and_does_what_is_answered() -> Result<()> {
    let (first, second) = ("first.example.test", "second.example.test");
    let machine = Machine::new()?;
    let upstream = machine.upstream(&[first, second])?;
    let resolve = |name: &str| format!("{name}:443:{}", upstream.address());
    let (to_first, to_second) = (resolve(first), resolve(second));
    fs_err::copy(machine.upstream_ca(), machine.project().join("only.pem"))?;
    let script = "c() { echo \"$(curl -sS --cacert only.pem -o /dev/null -w '%{http_code}' https://$1/)\"; }; \
         c first.example.test; c second.example.test; c first.example.test; c second.example.test";
    let options = [
        "--policy",
        "ask",
        "--resolve",
        &to_first,
        "--resolve",
        &to_second,
    ];
    let running = machine.script(&options, script).start()?;
    let question = asked_about(&machine, first)?;
    assert_eq!(question["port"], 443, "{question}");
    assert_eq!(upstream.requests()?, Vec::<Value>::new(), "it did not wait");
    let shown = machine.agent_vm(&["egress", "pending"]).run()?;
    assert!(
        shown.stdout.starts_with("first.example.test:443  waits "),
        "{shown:?}"
    );
    let said = machine.agent_vm(&["egress", "allow", first]).run()?;
    let said = said.expect_code(0)?;
    let told = "allow first.example.test, one question is answered\n";
    assert!(said.stderr.ends_with(told), "{said:?}");
    asked_about(&machine, second)?;
    let said = machine
        .agent_vm(&["egress", "deny", second, "--always"])
        .run()?
        .expect_code(0)?;
    assert!(
        said.stderr
            .contains("deny second.example.test, one question is answered\n")
            && said.stderr.contains("added to config.toml"),
        "{said:?}"
    );
    let finished = running.finish()?.expect_code(0)?;
    assert_eq!(finished.stdout, "200\n000\n200\n000\n", "{finished:?}");
    let hint = "the guest waits to reach first.example.test:443: `agent-vm egress allow";
    assert!(finished.stderr.contains(hint), "{finished:?}");
    let reached: Vec<Value> = upstream.requests()?;
    let hosts: Vec<&Value> = reached.iter().map(|request| &request["sni"]).collect();
    assert_eq!(hosts, [first, first], "{reached:?}");
    let asks: Vec<_> = machine
        .audit_log()?
        .into_iter()
        .filter(|event| event["kind"] == "ask")
        .map(|event| format!("{} {}", event["verdict"], event["host"]).replace('"', ""))
        .collect();
    let expected = [
        "ask first.example.test",
        "allow first.example.test",
        "ask second.example.test",
        "deny second.example.test",
    ];
    assert_eq!(asks, expected);
    let over = machine.agent_vm(&["egress", "pending", "--json"]).run()?;
    assert_eq!(over.expect_code(0)?.stdout, "[]\n");
    // What was to be kept is in force for the next launch.
    machine
        .agent_vm(&["egress", "check", second, "--policy", "public"])
        .run()?
        .expect_code(1)?;
    Ok(())
}
