//! How well the clock is synchronized, as adjtimex(2) says it. Reading needs no privilege; a sandbox may still refuse the call.

use super::output::Output;
use super::reader::Reader;
use super::{CollectError, HostCollector};

/// The call's result when the clock is not synchronized.
const TIME_ERROR: i32 = libc::TIME_ERROR;

/// Frequencies are in parts per million with 16 bits behind the point.
const PPM_16_BITS: f64 = 1e6 * 65_536.0;

pub(super) struct Timex;

#[expect(unsafe_code, reason = "no crate of the agent has a safe adjtimex")]
fn adjtimex() -> std::io::Result<(libc::timex, i32)> {
    // SAFETY: the structure consists of numbers, for which zeros are valid. With its modes at 0 the call only writes to it.
    let (timex, state) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        (timex, state)
    };
    if state == -1 { Err(std::io::Error::last_os_error()) } else { Ok((timex, state)) }
}

impl HostCollector for Timex {
    fn name(&self) -> &'static str {
        "timex"
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a double; node_exporter's are as well")]
    fn collect(&mut self, _: &mut Reader, output: &mut Output) -> Result<(), CollectError> {
        let (timex, state) = adjtimex().map_err(|error| CollectError::Read { path: "adjtimex".into(), error })?;
        let number = |value: libc::c_long| value as f64;
        let divisor = if timex.status & libc::STA_NANO == 0 { 1e6 } else { 1e9 };
        for (name, value) in [
            ("node_timex_sync_status", f64::from(u8::from(state != TIME_ERROR))),
            ("node_timex_offset_seconds", number(timex.offset) / divisor),
            ("node_timex_frequency_adjustment_ratio", 1.0 + number(timex.freq) / PPM_16_BITS),
            ("node_timex_maxerror_seconds", number(timex.maxerror) / 1e6),
            ("node_timex_estimated_error_seconds", number(timex.esterror) / 1e6),
            ("node_timex_status", f64::from(timex.status)),
            ("node_timex_loop_time_constant", number(timex.constant)),
            ("node_timex_tick_seconds", number(timex.tick) / 1e6),
            ("node_timex_pps_frequency_hertz", number(timex.ppsfreq) / PPM_16_BITS),
            ("node_timex_pps_jitter_seconds", number(timex.jitter) / divisor),
            ("node_timex_pps_shift_seconds", f64::from(timex.shift)),
            ("node_timex_pps_stability_hertz", number(timex.stabil) / PPM_16_BITS),
            ("node_timex_pps_jitter_total", number(timex.jitcnt)),
            ("node_timex_pps_calibration_total", number(timex.calcnt)),
            ("node_timex_pps_error_total", number(timex.errcnt)),
            ("node_timex_pps_stability_exceeded_total", number(timex.stbcnt)),
            ("node_timex_tai_offset_seconds", f64::from(timex.tai)),
        ] {
            output.gauge(name, &[], value);
        }
        Ok(())
    }
}
