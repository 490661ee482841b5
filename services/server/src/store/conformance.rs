//! One suite of cases that both stores must pass: the words at the top of [`crate::store`], each as a test.
//!
//! A store's own tests name a maker and get one test a case:
//!
//! ```ignore
//! async fn make(setup: Setup) -> Option<Made> { … }
//! crate::store::conformance::conformance_suite!(make);
//! ```
//!
//! The maker gives a fresh, empty store, or `None` where it can't run here, after it printed why (and failed with CI=true).

pub(crate) mod caps;
pub(crate) mod counters;
pub(crate) mod gauges;
pub(crate) mod history;
pub(crate) mod lifetime;
pub(crate) mod listing;
pub(crate) mod load;
pub(crate) mod matching;
pub(crate) mod repeats;
pub(crate) mod rollups;
pub(crate) mod samples;
pub(crate) mod window;

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use golectra_protocol::{IdempotencyKey, Kind, Metric, MetricId, Selector, Source, Value};
use sha2::{Digest, Sha256};

use super::{Applied, Batch, LatestFilter, LatestPages, Lifetimes, Series, SeriesLimits, Store, StoreError};
use crate::clock::Clock;

/// What a case asks of its store.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) limits: SeriesLimits,
    pub(crate) lifetimes: Lifetimes,
    /// The server's clock: it stands still at today's date, so that partitions by day are where a database makes them.
    pub(crate) clock: Clock,
}

impl Default for Setup {
    fn default() -> Self {
        let clock = Clock::at(Clock::System.unix_millis());
        Self { limits: SeriesLimits { total: 100_000, per_source: 50_000 }, lifetimes: Lifetimes::default(), clock }
    }
}

/// Does now what the store otherwise does from time to time: expires series and sources, forgets keys and history.
pub(crate) type Maintain = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A fresh store, and what must live as long as it does.
pub(crate) struct Made {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) maintain: Maintain,
    pub(crate) guard: Box<dyn Any + Send>,
}

/// A store under test with the words that cases are written in.
pub(crate) struct Lab {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    /// The clock's time at the start, in unix milliseconds.
    pub(crate) now: u64,
    maintain: Maintain,
    _guard: Box<dyn Any + Send>,
}

impl Lab {
    pub(crate) async fn new(make: &impl AsyncFn(Setup) -> Option<Made>) -> Option<Self> {
        Self::with(make, Setup::default()).await
    }

    pub(crate) async fn capped(make: &impl AsyncFn(Setup) -> Option<Made>, total: usize, per_source: usize) -> Option<Self> {
        Self::with(make, Setup { limits: SeriesLimits { total, per_source }, ..Setup::default() }).await
    }

    pub(crate) async fn with(make: &impl AsyncFn(Setup) -> Option<Made>, setup: Setup) -> Option<Self> {
        let clock = setup.clock.clone();
        let Made { store, maintain, guard } = make(setup).await?;
        Some(Self { store, now: clock.unix_millis(), clock, maintain, _guard: guard })
    }

    /// Applies a new batch sampled now.
    pub(crate) async fn put(&self, source: &str, metrics: Vec<Metric>) -> Result<Applied, StoreError> {
        self.put_at(source, self.now, metrics).await
    }

    /// Applies a new batch sampled at this time.
    pub(crate) async fn put_at(&self, source: &str, at_millis: u64, metrics: Vec<Metric>) -> Result<Applied, StoreError> {
        self.store.apply(batch(source, IdempotencyKey::at(at_millis), metrics)).await
    }

    pub(crate) async fn gauge(&self, id: &str) -> Option<f64> {
        let value = self.store.value(&Selector { id: name(id), kind: Kind::Gauge }).await.unwrap();
        value.map(|value| if let Value::Gauge(value) = value { value } else { panic!("{value:?} is no gauge") })
    }

    pub(crate) async fn counter(&self, id: &str) -> Option<i64> {
        let value = self.store.value(&Selector { id: name(id), kind: Kind::Counter }).await.unwrap();
        value.map(|value| if let Value::Counter(value) = value { value } else { panic!("{value:?} is no counter") })
    }

    /// All series of all sources.
    pub(crate) async fn series(&self) -> Vec<Series> {
        self.latest(LatestFilter::default()).await
    }

    /// All series that a filter asks for.
    pub(crate) async fn latest(&self, filter: LatestFilter) -> Vec<Series> {
        every(self.store.latest(filter).await.unwrap()).await
    }

    /// Does the store's maintenance now.
    pub(crate) async fn maintain(&self) {
        (self.maintain)().await;
    }

    /// Sets the clock to this many milliseconds after the start.
    pub(crate) fn at(&self, millis: u64) {
        self.clock.set(self.now + millis);
    }

    /// Asserts that a write leaves no trace in what can be read.
    pub(crate) async fn leaves_no_trace(&self, batch: Batch) -> StoreError {
        let before = (self.series().await, self.store.snapshot().await.unwrap(), self.store.sources().await.unwrap());
        let error = self.store.apply(batch).await.expect_err("a refusal");
        let after = (self.series().await, self.store.snapshot().await.unwrap(), self.store.sources().await.unwrap());
        assert_eq!(before, after, "after {error}");
        error
    }
}

/// Applies a batch as a client does: where the store has no room, the machine being busy, it comes again.
pub(crate) async fn patiently(store: &(impl super::Write + ?Sized), one: &Batch) -> Applied {
    for _ in 0..40 {
        match store.apply(one.clone()).await {
            Err(StoreError::Overloaded) => {}
            answer => return answer.unwrap(),
        }
    }
    panic!("there was no room forty times");
}

/// All series of a listing.
pub(crate) async fn every(mut pages: Box<dyn LatestPages>) -> Vec<Series> {
    let mut all = Vec::new();
    loop {
        let page = pages.next_page().await.unwrap();
        if page.is_empty() {
            return all;
        }
        assert!(page.len() <= super::newest::PAGE_SERIES);
        all.extend(page);
    }
}

/// A batch with a key of the client's.
pub(crate) fn batch(name: &str, key: IdempotencyKey, metrics: Vec<Metric>) -> Batch {
    let digest = Sha256::digest(format!("{metrics:?}")).into();
    Batch { source: source(name), key, keyed: true, digest, metrics: metrics.into(), audit: None }
}

/// Whether tests are to be as large as what they show is promised for: `GOLECTRA_SCALE=full`.
pub(crate) fn is_full() -> bool {
    std::env::var("GOLECTRA_SCALE").is_ok_and(|scale| scale == "full")
}

pub(crate) fn source(name: &str) -> Source {
    Source::from_stored(name).unwrap()
}

pub(crate) fn name(id: &str) -> MetricId {
    MetricId::parse(id).unwrap()
}

pub(crate) fn gauge(id: &str, value: f64) -> Metric {
    Metric { id: name(id), value: Value::gauge(value).unwrap() }
}

pub(crate) fn counter(id: &str, delta: i64) -> Metric {
    Metric { id: name(id), value: Value::counter(delta).unwrap() }
}

/// Makes one test of each case. The names of the cases stand here and nowhere else.
macro_rules! conformance_suite {
    ($maker:path) => {
        $crate::store::conformance::conformance_suite! { $maker;
            gauges::the_newest_batch_wins
            gauges::a_tie_goes_to_the_later_arrival
            gauges::a_late_batch_does_not_overwrite
            gauges::the_newest_over_all_sources_counts
            gauges::a_batch_from_the_future_does_not_hide_newer_ones
            gauges::a_clock_that_was_ahead_hides_nothing
            gauges::values_that_are_no_numbers_are_kept_and_not_shown
            gauges::the_newest_of_no_numbers_hides_older_numbers
            gauges::samples_with_times_of_their_own_are_set_by_them
            gauges::doubles_are_kept_bit_for_bit
            gauges::zero_is_a_value
            counters::deltas_add_up
            counters::the_view_is_the_sum_over_sources
            counters::the_sum_over_sources_saturates
            counters::a_late_delta_still_counts
            counters::zero_makes_the_counter
            counters::an_overflow_leaves_no_trace
            counters::a_gauge_and_a_counter_of_one_id_are_two
            repeats::a_repeat_changes_nothing
            repeats::of_many_at_once_one_is_new
            repeats::a_key_of_another_body_is_refused
            repeats::keys_are_per_source
            repeats::a_refused_batch_may_come_again
            samples::the_same_again_is_a_repeat
            samples::samples_of_a_clock_that_was_ahead_are_stored_once
            samples::another_value_at_a_stored_time_is_refused_alone
            samples::zeros_of_both_signs_are_two_values
            samples::samples_come_in_any_order
            samples::samples_outside_of_the_history_are_refused_alone
            samples::samples_ahead_of_the_clock_are_stored_once
            samples::a_full_store_takes_the_samples_of_series_that_are_there
            samples::a_forgotten_source_still_has_its_samples
            samples::a_series_that_is_back_has_its_samples_also_those_after_the_first_new_one
            samples::a_series_whose_samples_are_all_stored_does_not_come_back_half
            samples::whatever_comes_again_is_stored_once
            samples::agents_and_remote_write_share_a_source
            samples::sealed_samples_are_stored_once
            window::the_edges_are_closed
            window::a_refused_time_leaves_no_trace
            window::a_repeat_outside_of_the_window_is_too_old
            caps::a_source_is_full_at_its_cap
            caps::the_store_is_full_at_its_cap
            caps::existing_series_are_written_at_the_cap
            caps::a_batch_over_the_cap_is_refused_whole
            caps::writers_at_once_never_exceed_the_cap
            caps::samples_of_one_series_take_one_place
            listing::an_empty_store_lists_nothing
            listing::series_come_in_order
            listing::series_are_filtered_by_source
            listing::series_are_filtered_by_name
            listing::a_listing_comes_in_pages
            listing::the_longest_ids_come_back
            matching::matchers_select_series
            matching::a_matcher_that_nothing_has_selects_nothing
            matching::names_of_every_kind_are_matched
            matching::an_instance_of_its_own_comes_before_the_source
            matching::values_with_escapes_are_matched
            lifetime::a_series_that_is_not_reported_expires
            lifetime::only_time_in_which_the_source_reports_counts
            lifetime::late_reports_keep_a_series
            lifetime::an_expired_series_comes_back
            lifetime::unlabelled_totals_never_fall
            lifetime::a_labelled_counter_begins_anew
            lifetime::expired_series_make_room_under_the_caps
            lifetime::a_silent_source_expires_with_its_series
            lifetime::the_unnamed_source_never_expires
            lifetime::a_source_that_is_forgotten_keeps_its_keys
            lifetime::a_source_that_was_forgotten_begins_anew
            lifetime::forgetting_no_source_says_so
            lifetime::keys_outlive_a_shorter_history
            listing::ids_of_every_kind_come_back
            listing::the_unnamed_source_is_a_source
            listing::sources_tell_when_they_were_seen
            listing::series_tell_their_time
            history::samples_come_back_to_the_bit_and_in_order
            history::a_counters_samples_are_running_totals
            history::totals_count_what_came_before_the_range
            history::late_batches_take_their_places
            history::repeated_batches_add_no_samples
            history::of_equal_times_the_later_arrival_is_the_sample
            history::samples_have_times_of_their_own
            history::stale_markers_and_values_that_are_no_numbers_are_samples
            history::a_series_that_left_the_newest_state_stays_in_history
            history::a_counter_beside_a_gauge_says_so
            history::series_of_equal_labels_are_one
            history::matchers_select_from_history
            history::only_series_with_samples_in_the_range_are_selected
            history::a_query_has_limits
            history::series_and_labels_are_listed_sorted_and_limited
            history::a_list_of_series_to_export_takes_8_bytes_each
            history::what_was_not_reported_since_is_not_listed
            history::samples_leave_with_their_retention_and_totals_go_on
            rollups::rollups_answer_as_the_samples_do_and_refuse_what_needs_samples
            rollups::rollups_of_two_sources_answer_as_their_merged_samples_do
            rollups::rollups_show_series_whose_samples_begin_buckets
            load::writers_of_many_sources_sum_right
            load::a_big_batch_is_one_batch
            load::nothing_is_applied_after_close
        }
    };
    ($maker:path; $($group:ident::$case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::store::conformance::$group::$case(&$maker).await;
            }
        )*
    };
}
pub(crate) use conformance_suite;
