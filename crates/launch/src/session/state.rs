//! What both socket tasks and the users of a session share, on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};

use agent_vm_protocol::{
    ExecFailure, ExecId, ExitStatus, GuestMessage, HostMessage, INITIAL_WINDOW, OutputStream,
    encode,
};
use tokio::sync::Notify;

use super::error::SessionError;

/// Input is queued for the socket only while fewer bytes than this wait there.
const OUT_ROOM: usize = 512 * 1024;

/// Shared state. `changed` wakes everybody who waits for something here.
#[derive(Debug, Default)]
pub(super) struct State {
    changed: Notify,
    /// Wakes the writer.
    queued: Notify,
    out: RefCell<Vec<u8>>,
    programs: RefCell<HashMap<ExecId, Entry>>,
    next_id: Cell<u32>,
    failure: RefCell<Option<SessionError>>,
    stopped: Cell<bool>,
}

/// One program as the socket sees it.
#[derive(Debug)]
struct Entry {
    started: Option<Result<u32, ExecFailure>>,
    outputs: [Stream; 2],
    input_window: u64,
    input_closed: bool,
    status: Option<ExitStatus>,
}

#[derive(Debug)]
struct Stream {
    queue: VecDeque<Vec<u8>>,
    window: u64,
    ended: bool,
}

impl State {
    pub(super) fn new_program(&self) -> ExecId {
        let id = ExecId(self.next_id.get());
        self.next_id.set(id.0.wrapping_add(1));
        self.programs.borrow_mut().insert(id, Entry::new());
        id
    }

    pub(super) fn forget(&self, id: ExecId) {
        self.programs.borrow_mut().remove(&id);
    }

    /// Queues a message for the writer.
    pub(super) fn send(&self, message: &HostMessage) -> Result<(), SessionError> {
        if let Some(failure) = &*self.failure.borrow() {
            return Err(failure.clone());
        }
        encode(message, &mut self.out.borrow_mut())?;
        self.queued.notify_one();
        Ok(())
    }

    /// Waits for something to write and takes it.
    pub(super) async fn take_queued(&self) -> Vec<u8> {
        loop {
            let out = std::mem::take(&mut *self.out.borrow_mut());
            if !out.is_empty() {
                self.changed.notify_waiters();
                return out;
            }
            self.queued.notified().await;
        }
    }

    /// The session is over; the first reason stays.
    pub(super) fn fail(&self, error: SessionError) {
        self.failure.borrow_mut().get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// The user of the session ends it.
    pub(super) fn end(&self) {
        self.fail(SessionError::Closed);
    }

    /// Waits until `look` gives something or the session is over. `look` is asked first: what arrived before the end
    /// counts.
    async fn wait<T>(&self, mut look: impl FnMut(&Self) -> Option<T>) -> Result<T, SessionError> {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(failure) = &*self.failure.borrow() {
                return Err(failure.clone());
            }
            changed.await;
        }
    }

    pub(super) async fn failed(&self) -> SessionError {
        match self.wait(|_| None::<std::convert::Infallible>).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    pub(super) async fn stopped(&self) -> Result<(), SessionError> {
        self.wait(|state| state.stopped.get().then_some(())).await
    }

    pub(super) async fn started(
        &self,
        id: ExecId,
    ) -> Result<Result<u32, ExecFailure>, SessionError> {
        self.wait(|state| state.programs.borrow().get(&id)?.started.clone())
            .await
    }

    /// The next chunk of an output; `None` at its end.
    pub(super) async fn output(
        &self,
        id: ExecId,
        stream: OutputStream,
    ) -> Result<Option<Vec<u8>>, SessionError> {
        self.wait(|state| {
            let mut programs = state.programs.borrow_mut();
            let entry = programs.get_mut(&id)?;
            let over = entry.status.is_some();
            let stream = entry.stream(stream);
            match stream.queue.pop_front() {
                Some(chunk) => Some(Some(chunk)),
                None => (stream.ended || over).then_some(None),
            }
        })
        .await
    }

    pub(super) async fn status(&self, id: ExecId) -> Result<ExitStatus, SessionError> {
        self.wait(|state| state.programs.borrow().get(&id)?.status)
            .await
    }

    /// Waits for room and takes up to `most` bytes of the input window; `None` when the program takes no more input.
    pub(super) async fn input_room(
        &self,
        id: ExecId,
        most: usize,
    ) -> Result<Option<usize>, SessionError> {
        self.wait(|state| {
            let mut programs = state.programs.borrow_mut();
            let Some(entry) = programs
                .get_mut(&id)
                .filter(|entry| !entry.input_closed && entry.status.is_none())
            else {
                return Some(None);
            };
            let room = usize::try_from(entry.input_window)
                .unwrap_or(usize::MAX)
                .min(most);
            if room == 0 || state.out.borrow().len() >= OUT_ROOM {
                return None;
            }
            entry.input_window -= room as u64;
            Some(Some(room))
        })
        .await
    }

    /// Room that was taken but not used.
    pub(super) fn give_back_room(&self, id: ExecId, bytes: usize) {
        if let Some(entry) = self.programs.borrow_mut().get_mut(&id) {
            entry.input_window += bytes as u64;
        }
    }

    /// Waits until the program takes no more input.
    pub(super) async fn input_closed(&self, id: ExecId) -> Result<(), SessionError> {
        self.wait(|state| {
            let programs = state.programs.borrow();
            programs
                .get(&id)
                .is_none_or(|entry| entry.input_closed || entry.status.is_some())
                .then_some(())
        })
        .await
    }

    /// Gives back credit for output that was passed on.
    pub(super) fn grant(
        &self,
        id: ExecId,
        stream: OutputStream,
        bytes: u32,
    ) -> Result<(), SessionError> {
        if let Some(entry) = self
            .programs
            .borrow_mut()
            .get_mut(&id)
            .filter(|entry| entry.status.is_none())
        {
            let stream = entry.stream(stream);
            stream.window = stream.window.saturating_add(u64::from(bytes));
        }
        self.send(&HostMessage::OutputCredit { id, stream, bytes })
    }

    /// Takes a message of the guest.
    pub(super) fn receive(&self, message: GuestMessage) -> Result<(), SessionError> {
        match message {
            GuestMessage::Started { id, pid } => self.update(id, |entry| entry.start(Ok(pid))),
            GuestMessage::ExecFailed { id, failure } => {
                self.update(id, |entry| entry.start(Err(failure)))
            }
            GuestMessage::Output { id, stream, data } => {
                self.update(id, |entry| entry.stream(stream).push(data))
            }
            GuestMessage::OutputEof { id, stream } => self.update(id, |entry| {
                entry.stream(stream).ended = true;
                Ok(())
            }),
            GuestMessage::StdinCredit { id, bytes } => self.update(id, |entry| {
                let window = entry.input_window.saturating_add(u64::from(bytes));
                entry.input_window = window.min(u64::from(INITIAL_WINDOW));
                Ok(())
            }),
            GuestMessage::StdinClosed { id } => self.update(id, |entry| {
                entry.input_closed = true;
                Ok(())
            }),
            GuestMessage::Exited { id, status } => self.update(id, |entry| {
                entry.status = Some(status);
                Ok(())
            }),
            GuestMessage::Error(error) => Err(SessionError::Guest(error)),
            GuestMessage::Stopped => {
                self.stopped.set(true);
                self.changed.notify_waiters();
                Ok(())
            }
            GuestMessage::Hello { .. } | GuestMessage::Ready { .. } => {
                Err(SessionError::Unexpected)
            }
        }
    }

    /// Changes a program's entry; messages for programs we forgot were on the way.
    fn update(
        &self,
        id: ExecId,
        change: impl FnOnce(&mut Entry) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        let result = self
            .programs
            .borrow_mut()
            .get_mut(&id)
            .map_or(Ok(()), change);
        self.changed.notify_waiters();
        result
    }
}

impl Entry {
    fn new() -> Self {
        let stream = || Stream {
            queue: VecDeque::new(),
            window: u64::from(INITIAL_WINDOW),
            ended: false,
        };
        Self {
            started: None,
            outputs: [stream(), stream()],
            input_window: u64::from(INITIAL_WINDOW),
            input_closed: false,
            status: None,
        }
    }

    fn start(&mut self, result: Result<u32, ExecFailure>) -> Result<(), SessionError> {
        if self.started.is_some() {
            return Err(SessionError::Unexpected);
        }
        self.started = Some(result);
        Ok(())
    }

    fn stream(&mut self, stream: OutputStream) -> &mut Stream {
        match stream {
            OutputStream::Stdout => &mut self.outputs[0],
            OutputStream::Stderr => &mut self.outputs[1],
        }
    }
}

impl Stream {
    fn push(&mut self, data: Vec<u8>) -> Result<(), SessionError> {
        let left = self
            .window
            .checked_sub(data.len() as u64)
            .ok_or(SessionError::OverWindow)?;
        // An empty chunk would take memory without taking window.
        if !data.is_empty() && !self.ended {
            self.window = left;
            self.queue.push_back(data);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(id: ExecId, length: usize) -> GuestMessage {
        GuestMessage::Output {
            id,
            stream: OutputStream::Stdout,
            data: vec![0; length],
        }
    }

    #[test]
    fn output_over_its_window_is_an_error() {
        let state = State::default();
        let id = state.new_program();
        for _ in 0..4 {
            state
                .receive(output(id, INITIAL_WINDOW as usize / 4))
                .unwrap();
        }
        assert!(matches!(
            state.receive(output(id, 1)),
            Err(SessionError::OverWindow)
        ));
        state.grant(id, OutputStream::Stdout, 1).unwrap();
        state.receive(output(id, 1)).unwrap();
    }

    #[test]
    fn empty_chunks_take_no_memory() {
        let state = State::default();
        let id = state.new_program();
        for _ in 0..1000 {
            state.receive(output(id, 0)).unwrap();
        }
        assert!(
            state.programs.borrow_mut().get_mut(&id).unwrap().outputs[0]
                .queue
                .is_empty()
        );
    }

    #[test]
    fn messages_out_of_place_are_errors_and_for_strangers_ignored() {
        let state = State::default();
        let id = state.new_program();
        state.receive(output(ExecId(99), 70_000)).unwrap();
        state.receive(GuestMessage::Started { id, pid: 5 }).unwrap();
        assert!(matches!(
            state.receive(GuestMessage::Started { id, pid: 6 }),
            Err(SessionError::Unexpected)
        ));
        let hello = GuestMessage::Hello {
            magic: agent_vm_protocol::MAGIC,
            version: 1,
        };
        assert!(matches!(
            state.receive(hello),
            Err(SessionError::Unexpected)
        ));
    }

    #[test]
    fn credit_never_exceeds_one_window() {
        let state = State::default();
        let id = state.new_program();
        state
            .receive(GuestMessage::StdinCredit {
                id,
                bytes: u32::MAX,
            })
            .unwrap();
        assert_eq!(
            state.programs.borrow()[&id].input_window,
            u64::from(INITIAL_WINDOW)
        );
    }

    #[test]
    fn after_a_failure_nothing_is_sent_and_the_first_reason_stays() {
        let state = State::default();
        state.fail(SessionError::NotGuest);
        state.fail(SessionError::Closed);
        let error = state
            .send(&HostMessage::ClockSync { unix_ns: 1 })
            .unwrap_err();
        assert!(matches!(error, SessionError::NotGuest));
    }
}
