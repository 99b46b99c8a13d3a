//! Threads with a name and a stack of the size that they need.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crossbeam_channel::bounded;
use rustix::process::{getpriority_process, setpriority_process};

/// How nice a thread is that gives way: beside one that does not it gets a tenth of a processor, and all of one that is idle.
const NICE: i32 = 10;

/// Starts a thread.
///
/// # Errors
/// When the system gives none.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // Boxed: what the library needs for a thread is some kilobytes of program, once for each type that it is given.
    let work: Box<dyn FnOnce() -> T + Send> = Box::new(work);
    builder(name, stack_bytes).spawn(work)
}

/// Starts a thread that ends before the scope does.
///
/// # Errors
/// When the system gives none.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: impl Into<String>,
    stack_bytes: usize,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    let work: Box<dyn FnOnce() -> T + Send + 'scope> = Box::new(work);
    builder(name, stack_bytes).spawn_scoped(scope, work)
}

/// Starts a thread that takes `input` over. A thread that cannot be made would drop what moved into its closure, so the
/// input goes through a channel once the thread is there.
///
/// # Errors
/// When the system gives no thread: the caller has the input back, to end it as it should end.
pub fn hand_over<I: Send + 'static>(
    name: impl Into<String>,
    stack_bytes: usize,
    input: I,
    work: impl FnOnce(I) + Send + 'static,
) -> Result<JoinHandle<()>, (io::Error, I)> {
    // The thread waits for exactly this one, so that sending never blocks.
    let (sender, receiver) = bounded(1);
    let wait = move || {
        if let Ok(input) = receiver.recv() {
            work(input);
        }
    };
    match spawn(name, stack_bytes, wait) {
        Ok(thread) => match sender.send(input) {
            Ok(()) => Ok(thread),
            // Nobody but the thread holds the receiver, and it does not go before it has received.
            Err(back) => Err((
                io::Error::other("the new thread has ended"),
                back.into_inner(),
            )),
        },
        Err(error) => Err((error, input)),
    }
}

/// Lets all other threads go first from now on, as far as the system allows it: on Linux how nice one is counts for the calling
/// thread, and for those that it starts, and it is never undone.
pub fn give_way() {
    if getpriority_process(None).is_ok_and(|nice| nice < NICE) {
        // It is a courtesy: what is to be done is done all the same.
        let _ = setpriority_process(None, NICE);
    }
}

fn builder(name: impl Into<String>, stack_bytes: usize) -> Builder {
    Builder::new().name(name.into()).stack_size(stack_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_gives_way_and_the_others_do_not() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let thread = spawn("polite", 64 << 10, move || {
            give_way();
            let first = nice();
            give_way();
            (first, nice())
        });
        let expected = before.max(NICE);
        assert_eq!(thread.unwrap().join().unwrap(), (expected, expected));
        assert_eq!(nice(), before);
    }

    #[test]
    fn the_input_is_handed_over_or_comes_back() {
        let (sender, receiver) = bounded(1);
        let work = move |text: String| {
            let name = std::thread::current().name().map(str::to_owned);
            sender.send((name, text)).unwrap();
        };
        let thread = hand_over("worker-1", 64 << 10, "load".to_owned(), work).unwrap();
        let expected = (Some("worker-1".to_owned()), "load".to_owned());
        assert_eq!(receiver.recv().unwrap(), expected);
        thread.join().unwrap();
        // No system has that much room for a stack.
        let refused = hand_over("huge", usize::MAX >> 8, "load".to_owned(), drop);
        assert_eq!(refused.unwrap_err().1, "load");
    }
}
