//! The threads that queries run on.
//!
//! They are queries' own, so that their priority can be lower than that of the threads that take writes, and so that a query
//! that computes for long holds up nothing else.
//!
//! A lower priority does not suffice where writers could use all processors: a thread of any priority keeps its processor until the scheduler's slice
//! ends, some milliseconds, and a batch on its way between client, server and database waits for several of these. Only a thread of
//! the class SCHED_IDLE gives way at once. But it gets nothing where any other process needs all processors. So there are threads of both kinds.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};

/// What a thread runs.
type Job = Box<dyn FnOnce() + Send>;

/// Room for the deepest expression that the parser allows, in a debug build.
pub const STACK_BYTES: usize = 8 << 20;

/// How much lower [`Priority::Low`] is, in steps of nice(2).
const NICENESS: i32 = 10;

/// How much of the processors threads get. Where the system does not allow it they run all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Less than the threads that take writes.
    Low,
    /// What all others leave, as with SCHED_IDLE of sched(7).
    Idle,
}

impl Priority {
    /// Gives it to this thread alone.
    fn take(self) {
        match self {
            Self::Low => drop(rustix::process::nice(NICENESS)),
            Self::Idle => {
                let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                drop(set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy));
            }
        }
    }
}

/// A fixed number of threads. They end when this is dropped and their jobs are done.
pub struct Threads(Sender<Job>);

impl Threads {
    /// Starts them.
    pub fn start(count: usize, stack_bytes: usize, priority: Priority) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..count {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new().name("query".to_owned()).stack_size(stack_bytes).spawn(move || work(&receiver, priority))?;
        }
        Ok(Self(sender))
    }

    /// Runs a job as soon as a thread is free. It must not panic.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The receiver lives as long as a thread does, and threads live as long as the sender.
        let _ = self.0.send(Box::new(job));
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, priority: Priority) {
    priority.take();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_beside_each_other_at_a_lower_priority() {
        let threads = Threads::start(2, STACK_BYTES, Priority::Low).unwrap();
        let (to_first, from_second) = mpsc::channel();
        let (to_second, from_first) = mpsc::channel();
        let (done, ended) = mpsc::channel();
        let both_done = done.clone();
        threads.run(move || {
            to_second.send(()).unwrap();
            from_second.recv().unwrap();
            done.send(rustix::process::nice(0).unwrap()).unwrap();
        });
        threads.run(move || {
            from_first.recv().unwrap();
            to_first.send(()).unwrap();
            both_done.send(rustix::process::nice(0).unwrap()).unwrap();
        });
        let here = rustix::process::nice(0).unwrap();
        for niceness in ended.iter().take(2) {
            assert_eq!(niceness, (here + NICENESS).min(19));
        }
    }

    #[test]
    fn idle_threads_take_what_others_leave() {
        let threads = Threads::start(1, STACK_BYTES, Priority::Idle).unwrap();
        let (sender, policy) = mpsc::channel();
        threads.run(move || sender.send(thread_priority::thread_schedule_policy().unwrap()).unwrap());
        assert_eq!(policy.recv().unwrap(), ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle));
    }
}
