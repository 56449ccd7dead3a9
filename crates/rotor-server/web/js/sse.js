/**
 * Reads server-sent events: the `data` of each event, comments left out.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
export async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    try {
        while (true) {
            const { value, done } = await reader.read();
            if (done) return;
            buffer += value;
            // A lone CR at the end may be the first half of a CRLF.
            const complete = buffer.endsWith("\r") ? buffer.length - 1 : buffer.length;
            const parts = (buffer.slice(0, complete).replaceAll("\r\n", "\n") + buffer.slice(complete)).split("\n\n");
            buffer = parts.pop() ?? "";
            for (const part of parts) {
                const data = dataOf(part);
                if (data !== null) yield data;
            }
        }
    } finally {
        reader.releaseLock();
    }
}

/** The joined `data` lines of one event, or `null` where it has none. */
function dataOf(event) {
    const lines = event
        .split("\n")
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(line.startsWith("data: ") ? 6 : 5));
    return lines.length > 0 ? lines.join("\n") : null;
}
