//! TEMPORARY minimal attach, replaced by the session.
use crate::boot::Booting;
use crate::machine::MachineEnded;
use agent_vm_protocol::*;
use std::io::Write as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Ended.
    #[error("the guest is gone")]
    Machine(#[from] MachineEnded),
}

impl Booting {
    /// Runs.
    pub async fn attach(mut self) -> Result<u8, AttachError> {
        match self.talk().await {
            Ok(code) => Ok(code),
            Err(_) => Err(self.machine.post_mortem(std::time::Duration::from_secs(5)).await.into()),
        }
    }

    async fn talk(&mut self) -> std::io::Result<u8> {
        let mut decoder: Decoder<GuestMessage> = Decoder::new();
        let mut buf = vec![0u8; 65536];
        let mut code = 0;
        loop {
            let n = self.control.read(&mut buf).await?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let mut input = &buf[..n];
            while let Some(m) = decoder.next(&mut input).map_err(std::io::Error::other)? {
                let mut out = Vec::new();
                match m {
                    GuestMessage::Hello { .. } => {
                        encode(&HostMessage::Boot(Box::new(self.boot.clone())), &mut out).unwrap();
                    }
                    GuestMessage::Ready { timings, warnings } => {
                        tracing::info!(?timings, ?warnings, "ready");
                        let program = &self.prepared.request.program;
                        use std::os::unix::ffi::OsStrExt as _;
                        let exec = Exec {
                            id: ExecId(1),
                            argv: program.argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
                            env: self.prepared.environment.clone(),
                            cwd: crate::guest_view::guest_path(self.prepared.request.project.working_directory()).unwrap(),
                            user: User::Spec(String::new()),
                            tty: None,
                        };
                        encode(&HostMessage::Exec(Box::new(exec)), &mut out).unwrap();
                        encode(&HostMessage::StdinEof { id: ExecId(1) }, &mut out).unwrap();
                    }
                    GuestMessage::Output { id, stream, data } => {
                        match stream {
                            OutputStream::Stdout => std::io::stdout().write_all(&data)?,
                            OutputStream::Stderr => std::io::stderr().write_all(&data)?,
                        }
                        let bytes = data.len() as u32;
                        encode(&HostMessage::OutputCredit { id, stream, bytes }, &mut out).unwrap();
                    }
                    GuestMessage::Exited { status, .. } => {
                        code = status.shell_code();
                        encode(&HostMessage::Shutdown { grace_ms: 500 }, &mut out).unwrap();
                    }
                    GuestMessage::ExecFailed { failure, .. } => {
                        tracing::error!(?failure, "exec failed");
                        code = 127;
                        encode(&HostMessage::Shutdown { grace_ms: 500 }, &mut out).unwrap();
                    }
                    GuestMessage::Stopped => return Ok(code),
                    GuestMessage::Error(e) => return Err(std::io::Error::other(format!("{e:?}"))),
                    _ => {}
                }
                self.control.write_all(&out).await?;
            }
        }
    }
}
