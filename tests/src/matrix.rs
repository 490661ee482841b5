//! Runs a case on every combination of store and key.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use crate::process::at_exit;
use crate::{Client, Database, Server, ServerBuilder, Store};

/// The key of the servers with a key.
pub const KEY: &str = "the key of the tests";

/// The argument of a case: a client of a server that it shares with other cases, and the means to start a new one.
pub struct Target {
    client: Client,
    store: Store,
    key: Option<&'static str>,
    server: Arc<Server>,
    tag: String,
}

impl Target {
    /// An id that no other case uses.
    pub fn id(&self, name: &str) -> String {
        format!("{name}_{}", self.tag)
    }

    /// The shared server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The store of this combination.
    pub fn store(&self) -> Store {
        self.store
    }

    /// The key of this combination.
    pub fn key(&self) -> Option<&'static str> {
        self.key
    }

    /// A new server with the same store and key.
    pub fn own(&self) -> ServerBuilder {
        builder(self.store, self.key).expect("the shared server of this store has started")
    }
}

impl Deref for Target {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.server.tail());
        }
    }
}

fn builder(store: Store, key: Option<&'static str>) -> Option<ServerBuilder> {
    let builder = Server::builder().key(key);
    Some(match store {
        Store::Memory => builder,
        Store::Postgres => builder.database(&Database::create()?),
    })
}

/// The server of a combination, started by the first case that needs it and ended with the test program.
fn shared(store: Store, key: Option<&'static str>) -> Option<Arc<Server>> {
    type Slot = Arc<OnceLock<Option<Arc<Server>>>>;
    static SHARED: LazyLock<Mutex<BTreeMap<(Store, bool), Slot>>> = LazyLock::new(Mutex::default);
    let slot = Arc::clone(SHARED.lock().expect("no holder panics").entry((store, key.is_some())).or_default());
    slot.get_or_init(|| {
        let server = Arc::new(builder(store, key)?.start());
        let kept = Arc::clone(&server);
        at_exit(move || {
            // No static or case of this program uses the server any more, so this drops the last reference.
            SHARED.lock().expect("no holder panics").clear();
            drop(kept);
        });
        Some(server)
    })
    .clone()
}

/// Runs a case on one combination.
pub fn run(name: &str, store: Store, keyed: bool, case: impl AsyncFnOnce(Target)) {
    let key = keyed.then_some(KEY);
    let Some(server) = shared(store, key) else { return };
    let tag = format!("{name}_{}", uuid::Uuid::now_v7().simple());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let target = Target { client: server.client(), store, key, server: Arc::clone(&server), tag };
        case(target).await;
    });
}

/// Makes four tests of each named case: on both stores, with and without a key.
#[macro_export]
macro_rules! on_every_store {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            #[test]
            fn memory() {
                $crate::run(stringify!($case), $crate::Store::Memory, false, super::$case);
            }

            #[test]
            fn memory_with_key() {
                $crate::run(stringify!($case), $crate::Store::Memory, true, super::$case);
            }

            #[test]
            fn postgres() {
                $crate::run(stringify!($case), $crate::Store::Postgres, false, super::$case);
            }

            #[test]
            fn postgres_with_key() {
                $crate::run(stringify!($case), $crate::Store::Postgres, true, super::$case);
            }
        }
    )+};
}

/// Makes two tests of each named case, on both stores, for cases that do not depend on the key.
#[macro_export]
macro_rules! on_both_stores {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            #[test]
            fn memory() {
                $crate::run(stringify!($case), $crate::Store::Memory, false, super::$case);
            }

            #[test]
            fn postgres() {
                $crate::run(stringify!($case), $crate::Store::Postgres, false, super::$case);
            }
        }
    )+};
}
