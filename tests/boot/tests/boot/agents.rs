//! C8: the guest uses keys of the host's SSH agent, the chosen ones only, and holds none.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use agent_vm_boot_tests::{HELPERS_VARIABLE, Machine};
use anyhow::{Context as _, Result, ensure};

/// Requests that an agent got.
type Asked = Arc<Mutex<Vec<Vec<u8>>>>;

const IDENTITIES: u8 = 11;
const SIGN: u8 = 13;

/// An agent with two keys, `key-chosen` and `key-other`, that signs whatever it is asked to.
fn agent(socket: &Path) -> Result<Asked> {
    let listener = UnixListener::bind(socket)?;
    fs_err::set_permissions(socket, std::fs::Permissions::from_mode(0o777))?;
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            std::thread::spawn(move || drop(serve(client, &noted)));
        }
    });
    Ok(asked)
}

fn serve(mut client: UnixStream, asked: &Asked) -> Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        client.read_exact(&mut request)?;
        let answer = match request[0] {
            IDENTITIES => {
                let mut answer = vec![12, 0, 0, 0, 2];
                for field in ["key-chosen", "chosen", "key-other", "other"] {
                    answer.extend(u32::try_from(field.len())?.to_be_bytes());
                    answer.extend(field.as_bytes());
                }
                answer
            }
            SIGN => b"\x0e\0\0\0\x09signature".to_vec(),
            _ => vec![6],
        };
        asked
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
            .push(request);
        client.write_all(&u32::try_from(answer.len())?.to_be_bytes())?;
        client.write_all(&answer)?;
    }
}

const SCRIPT: &str = "
/agent_client list
/agent_client sign key-chosen
/agent_client sign key-other
for kind in 1 17 18 19 22 23 25 26 27; do /agent_client raw $kind; done | sort -u
stat -c %a $SSH_AUTH_SOCK
";

#[test]
fn ssh_agent_signs_with_the_chosen_key_only() -> Result<()> {
    let machine = Machine::new()?;
    let helpers = std::env::var(HELPERS_VARIABLE).context(HELPERS_VARIABLE)?;
    let client = format!("{helpers}/agent_client:/agent_client:ro");
    let socket = machine.home().join("agent.sock");
    let asked = agent(&socket)?;
    let socket = socket.to_str().context("a path of text")?;
    let finished = machine
        .script(&["--mount", &client, "--ssh-agent=chosen"], SCRIPT)
        .env("SSH_AUTH_SOCK", socket)
        .run()?
        .expect_code(0)?;
    let said: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(
        said,
        ["chosen", "14", "5", "5", "600"],
        "{}",
        finished.stderr
    );
    let asked = asked.lock().unwrap_or_else(|broken| broken.into_inner());
    let signed = |key: &str| {
        let named = |request: &&Vec<u8>| {
            request
                .windows(key.len())
                .any(|part| part == key.as_bytes())
        };
        asked
            .iter()
            .filter(|request| request[0] == SIGN)
            .filter(named)
            .count()
    };
    assert_eq!((signed("key-chosen"), signed("key-other")), (1, 0));
    ensure!(
        asked
            .iter()
            .all(|request| matches!(request[0], IDENTITIES | SIGN)),
        "{asked:?}"
    );
    Ok(())
}

#[test]
fn without_the_option_there_is_no_agent_in_the_guest() -> Result<()> {
    let machine = Machine::new()?;
    let socket = machine.home().join("agent.sock");
    let asked = agent(&socket)?;
    let script = "echo \"${SSH_AUTH_SOCK:-none}\"; ls /run/agent-vm 2>/dev/null | grep -c sock";
    let socket = socket.to_str().context("a path of text")?;
    let finished = machine
        .script(&[], script)
        .env("SSH_AUTH_SOCK", socket)
        .run()?;
    assert_eq!(finished.stdout, "none\n0\n");
    ensure!(
        asked
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
            .is_empty()
    );
    Ok(())
}
