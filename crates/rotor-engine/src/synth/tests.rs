use super::*;

fn write(preset: Preset, options: &SynthOptions) -> (tempfile::TempDir, PathBuf, SynthReport) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let report = synthesize(preset, &path, options, &mut |_, _| {}).unwrap();
    (folder, path, report)
}

#[test]
fn a_seed_decides_every_byte() {
    let bytes = |seed| {
        let (_folder, path, _) = write(Preset::Tiny, &SynthOptions { seed, ..SynthOptions::default() });
        std::fs::read(path).unwrap()
    };
    let first = bytes(1);
    assert_eq!(first, bytes(1));
    assert_ne!(first, bytes(2));
    assert!(first.len() < 2 << 20, "{}", first.len());
}

#[test]
fn progress_reaches_its_total() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let mut tell = |done, total| told.push((done, total));
    synthesize(Preset::Tiny, &folder.path().join("m.gguf"), &SynthOptions::default(), &mut tell).unwrap();
    let (done, total) = told[told.len() - 1];
    assert!(done == total && told[0] == (0, total) && told.is_sorted(), "{told:?}");
}
