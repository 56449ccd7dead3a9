// A theme that was chosen must hold at the first paint, before any module runs; preferences.js follows later changes.
try {
    const { theme } = JSON.parse(localStorage.getItem("rotor.preferences") ?? "{}");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
    // Storage is blocked or damaged: the system's theme stays.
}
