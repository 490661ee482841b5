//! Lines on stdout and stderr for the person who ran a command. Unlike `println!` and `eprintln!` these functions do not panic when
//! the reader has closed its end of the pipe, as in `golectra-server --help | head -1`.

use std::io::{self, ErrorKind, Write};

/// Prints a line on stdout. A closed pipe is not an error: its reader wants no more.
pub fn print_line(line: &str) -> io::Result<()> {
    ignoring_closed_pipe(write_line(&mut io::stdout().lock(), line))
}

/// Prints a line on stderr. Errors are ignored, because there is nowhere left to report them.
pub fn print_error_line(line: &str) {
    let _ = write_line(&mut io::stderr().lock(), line);
}

fn write_line(out: &mut impl Write, line: &str) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}

fn ignoring_closed_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;

    #[test]
    fn only_a_closed_pipe_is_ignored() {
        let (reader, mut writer) = pipe().unwrap();
        drop(reader);
        let closed = write_line(&mut writer, "a line");
        assert_eq!(closed.as_ref().map_err(io::Error::kind), Err(ErrorKind::BrokenPipe));
        assert!(ignoring_closed_pipe(closed).is_ok());
        let full = write_line(&mut [0; 3].as_mut_slice(), "a line");
        assert!(ignoring_closed_pipe(full).is_err());
    }
}
