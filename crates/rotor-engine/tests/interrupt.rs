//! What an interrupted process leaves on the disk. A process of its own: the registry of temporaries is process-wide.

use rotor::write::{AtomicFile, AtomicFolder, remove_temporaries};

#[test]
#[cfg_attr(
    windows,
    ignore = "Wine 8 keeps the name of a file that is open until it is closed, as Windows before 10 did"
)]
fn an_interrupt_removes_every_temporary_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    AtomicFile::create(&folder.path().join("done.gguf")).unwrap().commit().unwrap();
    let mut file = AtomicFile::create(&folder.path().join("half.gguf")).unwrap();
    file.write(b"half").unwrap();
    let model = AtomicFolder::create(&folder.path().join("model")).unwrap();
    std::fs::write(model.path().join("config.json"), "{}").unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);

    remove_temporaries();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["done.gguf"]);
    // What was being written cannot get its name any more.
    assert!(file.commit().is_err());
    assert!(model.commit().is_err());
}
