//! Folders that Kubernetes mounts: Secrets and ConfigMaps.

/// A folder is read until two reads in a row agree, at most this many times.
const MAX_READS: usize = 6;

/// What `read` gives of a folder. Kubernetes updates a mounted Secret or ConfigMap by replacing a symbolic link that all its files lead through; a read during
/// that moment may see files of both versions. So the folder is read again until two reads agree.
pub fn read_settled<T: PartialEq, E>(read: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let mut last = read()?;
    for _ in 1..MAX_READS {
        let again = read()?;
        if again == last {
            break;
        }
        last = again;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_is_read_until_two_reads_agree_or_often_enough() {
        let reads = Cell::new(0);
        let counted = |value: fn(usize) -> usize| {
            reads.set(0);
            let read = || {
                reads.set(reads.get() + 1);
                Ok::<_, ()>(value(reads.get()))
            };
            (read_settled(read).unwrap(), reads.get())
        };
        assert_eq!(counted(|_| 7), (7, 2));
        assert_eq!(counted(|read| read.min(3)), (3, 4));
        assert_eq!(counted(|read| read), (MAX_READS, MAX_READS));
        assert_eq!(read_settled(|| Err::<(), _>("gone")), Err("gone"));
    }
}
