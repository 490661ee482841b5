//! Whatever a query says, it is read or refused; what is read is written the same way again, and evaluating it ends.
#![no_main]

use std::cell::Cell;
use std::sync::LazyLock;

use golectra_promql::parse::{ParseLimits, parse};
use golectra_promql::store::MemoryStore;
use golectra_promql::{Engine, Interrupted, Labels, Limits, MemoryBudget, Query, Steps};
use libfuzzer_sys::fuzz_target;

static STORE: LazyLock<MemoryStore> = LazyLock::new(|| {
    let mut store = MemoryStore::default();
    for name in ["a", "b_total", "c_bucket"] {
        for label in ["0.5", "1", "+Inf"] {
            let labels = Labels::new([("__name__", name), ("le", label), ("job", "web")]);
            for step in 0_u32..20 {
                store.add(&labels, i64::from(step) * 15_000, f64::from(step) * 1.5);
            }
        }
    }
    store
});

/// How often an evaluation asks whether it may go on before it is told to end.
const PATIENCE: u32 = 2_000;

fuzz_target!(|text: &[u8]| {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let limits = ParseLimits { max_query_bytes: 4096, max_patterns: 8, max_compiled_bytes: 1 << 20, ..ParseLimits::default() };
    let query = match Query::parse(text, &limits) {
        Ok(query) => query,
        Err(error) => {
            let span = error.span();
            assert!(span.start <= span.end && span.end <= text.len(), "{span:?} is in the query");
            return;
        }
    };
    for written in [query.expr().to_string(), query.expr().prettify()] {
        // What is written may be longer than the limit.
        let wide = ParseLimits { max_query_bytes: 1 << 20, max_depth: 1024, ..limits };
        let again = parse(&written, &wide).unwrap_or_else(|error| panic!("{written:?} from {text:?}: {error}"));
        assert_eq!(again.to_string(), query.expr().to_string(), "from {text:?}");
    }
    let limits = Limits { max_series: 100, max_steps: 100, max_subquery_steps: 1_000, max_bytes: 4 << 20 };
    let engine = Engine { limits, ..Engine::default() };
    let asked = Cell::new(0);
    let interrupt = || {
        asked.set(asked.get() + 1);
        if asked.get() > PATIENCE { Err(Interrupted::DeadlineExceeded) } else { Ok(()) }
    };
    let budget = MemoryBudget::new(8 << 20);
    if let Ok(outcome) = engine.instant(&query, 200_000, &*STORE, &interrupt, &budget) {
        drop(outcome);
    }
    let steps = Steps::range(0, 300_000, 30_000).expect("a range");
    let _ = engine.range(&query, steps, &*STORE, &interrupt, &budget);
    assert_eq!(budget.used_bytes(), 0, "what was taken is given back");
});
