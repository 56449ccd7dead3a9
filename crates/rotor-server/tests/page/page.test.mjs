/** The page against any server: what a user does with it, from the first message to the export. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { answered, answerText, baseUrl, end, lastAnswer, ready, say, slowDown, start, withPage } from "./browser.mjs";

before(start);
after(end);

const PROMPT = "Once upon a time";

test("a message is answered, with its figures", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        const answer = await answered(page);
        assert.ok((await answerText(page)).trim().length > 0);
        assert.match(await answer.locator(".figures").innerText(), /tok\/s · first .+ s · [\d,]+ of [\d,]+/);
        assert.match(page.url(), /#\/c\/\w+$/);
    }));

test("an answer that is stopped keeps what came, and goes on", () =>
    withPage(async (page) => {
        await ready(page);
        const fast = await slowDown(page);
        await say(page, `${PROMPT} slow`);
        await page.waitForFunction(() => document.querySelector(".turn.assistant .markdown")?.innerText.length > 8);
        assert.ok(await page.getByRole("button", { name: "Stop" }).isVisible());
        await page.keyboard.press("Escape");
        await lastAnswer(page).getByText("Stopped here.").waitFor();
        const stopped = await answerText(page);
        await fast();
        await lastAnswer(page).getByRole("button", { name: "Go on" }).click();
        await answered(page);
        const whole = await answerText(page);
        assert.ok(whole.startsWith(stopped.trimEnd()) && whole.length > stopped.length, `"${whole}" goes on from "${stopped}"`);
    }));

test("Again makes a branch, and the arrows go between branches", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await lastAnswer(page).getByRole("button", { name: "Again" }).click();
        await page.getByText("2 / 2").waitFor();
        await answered(page);
        await page.getByRole("button", { name: "Previous branch" }).click();
        await page.getByText("1 / 2").waitFor();
        await page.locator("body").click({ position: { x: 1200, y: 400 } });
        await page.keyboard.press("]");
        await page.getByText("2 / 2").waitFor();
        await page.keyboard.press("[");
        await page.getByText("1 / 2").waitFor();
    }));

test("an edited message is a new branch with an answer of its own", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await page.locator(".turn.user").getByRole("button", { name: "Edit" }).click();
        await page.getByLabel("Edited text").fill("In a house by the sea");
        await page.getByRole("button", { name: "Send as a new branch" }).click();
        await page.locator(".turn.user .message", { hasText: "In a house by the sea" }).waitFor();
        await answered(page);
        await page.getByRole("button", { name: "Previous branch" }).click();
        await page.locator(".turn.user .message", { hasText: PROMPT }).waitFor();
        assert.equal(await page.locator(".turn.assistant").count(), 1);
    }));

test("an edited answer is kept as a branch and sent with the next message", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await lastAnswer(page).getByRole("button", { name: "Edit" }).click();
        await page.getByLabel("Edited text").fill("There was a **lighthouse**.");
        await page.getByRole("button", { name: "Keep as a new branch" }).click();
        await lastAnswer(page).getByText("There was a lighthouse.").waitFor();
        const sent = page.waitForRequest((request) => request.url().endsWith("completions"));
        await say(page, "And then?");
        const body = (await sent).postDataJSON();
        await answered(page, 2);
        if (body.messages)
            assert.deepEqual(
                body.messages.map(({ content }) => content),
                [PROMPT, "There was a **lighthouse**.", "And then?"],
            );
    }));

test("a reload finds the conversation, its branches and its place in the list", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await lastAnswer(page).getByRole("button", { name: "Again" }).click();
        await page.getByText("2 / 2").waitFor();
        await answered(page);
        await page.getByRole("button", { name: "Previous branch" }).click();
        await page.getByText("1 / 2").waitFor();
        const text = await answerText(page);
        await stored(page);
        await page.reload();
        await page.getByText("1 / 2").waitFor();
        assert.equal(await answerText(page), text);
        await page.locator("#history a", { hasText: PROMPT }).waitFor();
    }));

test("a reload in mid-stream shows what came and offers to go on", () =>
    withPage(
        async (page) => {
            await ready(page);
            const fast = await slowDown(page);
            await say(page, `${PROMPT} slow`);
            await page.waitForFunction(() => document.querySelector(".turn.assistant .markdown")?.innerText.length > 12);
            await page.waitForTimeout(400);
            await page.reload({ waitUntil: "commit" });
            await fast();
            await lastAnswer(page).getByText("Stopped here.").waitFor();
            const stopped = await answerText(page);
            assert.ok(stopped.length > 4);
            await lastAnswer(page).getByRole("button", { name: "Go on" }).click();
            await answered(page);
            assert.ok((await answerText(page)).length > stopped.length);
        },
        { allowed: /ERR_ABORTED|net::/ },
    ));

test("the token view shows every token and goes on from another one", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        const before = await answerText(page);
        await lastAnswer(page).getByRole("link", { name: "Tokens" }).click();
        await page.waitForURL(/tokens/);
        const boxes = page.locator(".token");
        await boxes.nth(3).waitFor();
        assert.match(await page.locator(".tokens-head .figures").first().innerText(), /tokens · .+ bits per token/);
        await boxes.nth(2).click();
        assert.match(await page.locator(".token-detail").innerText(), /Probability\s+[\d.]+ %/);
        const other = page.locator("button.alternative").first();
        await other.waitFor();
        const sent = page.waitForRequest((request) => request.url().endsWith("completions"));
        await other.click();
        const body = (await sent).postDataJSON();
        assert.equal(body.continue_final_message, true);
        await page.getByText("2 / 2").waitFor();
        await answered(page);
        const after = await answerText(page);
        assert.notEqual(after, before);
        assert.ok(
            after.trimStart().startsWith(body.messages.at(-1).content.trim().slice(0, 8)),
            "the new branch begins with the text that was kept",
        );
    }));

test("the token view works by keyboard", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await lastAnswer(page).getByRole("link", { name: "Tokens" }).click();
        await page.locator(".token").first().focus();
        await page.keyboard.press("ArrowRight");
        await page.keyboard.press("ArrowRight");
        await page.getByText(/Token 3 of/).waitFor();
        await page.keyboard.press("Enter");
        assert.equal(await page.evaluate(() => document.activeElement.className), "alternative");
        await page.keyboard.press("Escape");
        await page.waitForURL(/#\/c\/\w+$/);
    }));

test("the model view shows file, memory, layers and speed", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await page.getByRole("link", { name: "Model", exact: true }).click();
        for (const heading of ["Architecture", "Memory", "Layers", "Speed"])
            await page.getByRole("heading", { name: heading, exact: true }).waitFor();
        const cells = page.locator(".strip .cell");
        await cells.nth(6).waitFor();
        await cells.nth(3).hover();
        assert.match(await page.locator(".readout").innerText(), /^Layer 0 · \w+ · .+ −1 [\d.]+ % · 0 [\d.]+ % · \+1 [\d.]+ %/);
        await cells.nth(3).click();
        await page.locator(".linear-detail h3").waitFor();
        await page.keyboard.press("ArrowRight");
        await page.keyboard.press("Enter");
        assert.equal(await page.locator(".cell[aria-pressed]").count(), 1);
    }));

test("the requests view shows what runs, or how to point a client here", () =>
    withPage(async (page) => {
        await ready(page);
        await page.getByRole("link", { name: "Requests" }).click();
        await page
            .getByText(/Nothing runs|Running/)
            .first()
            .waitFor();
        await page.locator(".snippets .code, .rows tbody tr").first().waitFor();
    }));

test("settings are kept, sent, and reset", () =>
    withPage(async (page) => {
        await ready(page);
        await page.getByRole("link", { name: "Settings" }).click();
        await page.getByLabel("Temperature", { exact: true }).fill("0");
        await page.getByLabel("System prompt", { exact: true }).fill("Be brief.");
        await page.getByLabel("Length", { exact: true }).fill("24");
        await page.getByLabel("Top-p", { exact: true }).fill("7");
        await page.getByText("From 0 to 1.").waitFor();
        const sent = page.waitForRequest((request) => request.url().endsWith("completions"));
        await page.getByLabel("Message", { exact: true }).fill(PROMPT);
        await page.getByLabel("Message", { exact: true }).press("Enter");
        const body = (await sent).postDataJSON();
        await answered(page);
        assert.equal(body.temperature, 0);
        assert.equal(body.top_p, undefined, "a value that is out of range is not sent");
        assert.equal(body.max_completion_tokens ?? body.max_tokens, 24);
        if (body.messages) assert.deepEqual(body.messages[0], { role: "system", content: "Be brief." });
        await page.reload();
        await page.getByLabel("Temperature", { exact: true }).waitFor();
        assert.equal(await page.getByLabel("Temperature", { exact: true }).inputValue(), "0");
        await page.getByRole("button", { name: "Reset Temperature" }).click();
        assert.equal(await page.getByLabel("Temperature", { exact: true }).inputValue(), "");
        await page.getByLabel("Dark", { exact: true }).check();
        assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
        await page.reload();
        assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    }));

test("conversations are exported, deleted with Undo, and imported", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        const text = await answerText(page);
        await page.getByRole("link", { name: "Settings" }).click();
        const downloading = page.waitForEvent("download");
        await page.getByRole("button", { name: "Export" }).click();
        const file = await (await downloading).path();
        const exported = JSON.parse(await readFile(file, "utf8"));
        assert.deepEqual([exported.format, exported.conversations.length, exported.turns.length], ["rotor.conversations", 1, 2]);

        await page.getByRole("button", { name: "Delete all" }).click();
        await page.locator("#history a").waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Undo" }).click();
        await page.locator("#history a").waitFor();
        await page.getByRole("button", { name: "Delete all" }).click();
        await page.locator("#history a").waitFor({ state: "detached" });

        await page
            .getByLabel("File to import")
            .setInputFiles({ name: "c.json", mimeType: "application/json", buffer: await readFile(file) });
        await page.locator("#history a").click();
        await page.locator(".turn.assistant").waitFor();
        assert.equal(await answerText(page), text);

        await page.getByRole("link", { name: "Settings" }).click();
        await page
            .getByLabel("File to import")
            .setInputFiles({ name: "c.json", mimeType: "application/json", buffer: Buffer.from("[1, 2") });
        await page.getByText("This file is no JSON.").waitFor();
    }));

test("one conversation is deleted from the list and brought back", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await page.locator("#history li").hover();
        await page.getByRole("button", { name: `Delete ${PROMPT}` }).click();
        await page.locator(".turn").first().waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Undo" }).click();
        await page.locator(".turn.assistant").waitFor();
    }));

test("a conversation is renamed and found by search", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        await page.getByTitle("Rename").click();
        await page.getByLabel("Title of the conversation").fill("The sea");
        await page.keyboard.press("Enter");
        await page.locator("#history a", { hasText: "The sea" }).waitFor();
        await page.getByLabel("Search conversations").fill("nothing of the kind");
        await page.getByText("Nothing found.").waitFor();
        await page.getByLabel("Search conversations").fill("ONCE UPON");
        await page.locator("#history a", { hasText: "The sea" }).waitFor();
    }));

test("the keys: slash, question mark, escape, and back", () =>
    withPage(async (page) => {
        await ready(page);
        await page.getByRole("link", { name: "Model", exact: true }).click();
        await page.getByRole("heading", { name: "Model", level: 1 }).waitFor();
        await page.keyboard.press("?");
        await page.getByRole("dialog").waitFor();
        await page.keyboard.press("Escape");
        await page.getByRole("dialog").waitFor({ state: "hidden" });
        await page.keyboard.press("/");
        await page.waitForFunction(() => document.activeElement?.id === "message");
        await page.goBack();
        await page.getByRole("heading", { name: "Model", level: 1 }).waitFor();
    }));

test("two tabs do not overwrite each other", () =>
    withPage(async (page, context) => {
        await say(page, PROMPT);
        await answered(page);
        const other = await context.newPage();
        await other.goto(page.url());
        await other.locator(".turn.assistant").waitFor();
        await Promise.all([say(page, "From the first tab"), say(other, "From the second tab")]);
        const ended = ({ role, state, content }) => role === "user" || (["done", "length"].includes(state) && content);
        await eventually(async () => {
            const turns = await page.evaluate(storedTurns);
            return turns.length === 6 && turns.every(ended);
        });
        await page.reload();
        await answered(page);
        const texts = (await page.evaluate(storedTurns)).map(({ content }) => content);
        assert.ok(texts.includes("From the first tab") && texts.includes("From the second tab"), texts.join(" | "));
        assert.equal(texts.length, 6);
    }));

test("blocked storage: everything works, and the page says that nothing is kept", () =>
    withPage(
        async (page) => {
            await page.getByText("nothing is kept").waitFor();
            await say(page, PROMPT);
            await answered(page);
            await page.locator("#history a", { hasText: PROMPT }).waitFor();
            await page.getByRole("link", { name: "Settings" }).click();
            await page.getByLabel("Temperature", { exact: true }).fill("0.5");
            await page.getByRole("link", { name: "Model", exact: true }).click();
            await page.getByRole("link", { name: "Settings" }).click();
            assert.equal(await page.getByLabel("Temperature", { exact: true }).inputValue(), "0.5");
        },
        {
            prepare: (context) =>
                context.addInitScript(() => {
                    const blocked = () => {
                        throw new DOMException("blocked", "SecurityError");
                    };
                    for (const name of ["indexedDB", "localStorage", "sessionStorage"])
                        Object.defineProperty(window, name, { get: blocked });
                }),
        },
    ));

test("storage that is full: the answer comes all the same, and the page says that it is not kept", () =>
    withPage(
        async (page) => {
            await say(page, PROMPT);
            await page.getByText("This browser has no more room").waitFor();
            await answered(page);
            assert.ok((await answerText(page)).length > 0);
        },
        {
            prepare: (context) =>
                context.addInitScript(() => {
                    const put = IDBObjectStore.prototype.put;
                    IDBObjectStore.prototype.put = function (value) {
                        if (this.name === "turns") throw new DOMException("no room", "QuotaExceededError");
                        return put.call(this, value);
                    };
                }),
        },
    ));

test("nothing scrolls sideways, at any width and at twice the size", async () => {
    for (const width of [360, 390, 720, 1000, 1440]) {
        await withPage(
            async (page) => {
                await say(page, PROMPT);
                await answered(page);
                const chat = page.url();
                for (const address of [chat, `${baseUrl()}#/model`, `${baseUrl()}#/requests`, `${baseUrl()}#/settings`]) {
                    await page.goto(address);
                    await page.waitForTimeout(150);
                    const wide = await page.evaluate(() =>
                        [document.scrollingElement, ...document.querySelectorAll(".view, .scroll, .panel, .history")]
                            .filter((box) => box.scrollWidth > box.clientWidth + 1)
                            .map((box) => box.className || box.localName),
                    );
                    assert.deepEqual(wide, [], `${address} at ${width}`);
                    const tall = await page.evaluate(() => document.scrollingElement.scrollHeight - innerHeight);
                    assert.ok(tall <= 0, `${address} at ${width}: the document is ${tall} pixels too high`);
                }
            },
            { options: { viewport: { width, height: 800 } } },
        );
    }
});

test("every control has a name, and headings do not skip a level", () =>
    withPage(async (page) => {
        await say(page, PROMPT);
        await answered(page);
        const chat = page.url();
        for (const address of [chat, `${baseUrl()}#/model`, `${baseUrl()}#/requests`, `${baseUrl()}#/settings`]) {
            await page.goto(address);
            await page.waitForTimeout(300);
            const found = await page.evaluate(() => {
                const shown = (element) => element.checkVisibility();
                const unnamed = [...document.querySelectorAll("button, a, input, select, textarea")]
                    .filter(shown)
                    .filter((control) => {
                        const label = control.labels?.length ? control.labels[0].textContent : "";
                        return !(control.getAttribute("aria-label") || control.textContent.trim() || label.trim());
                    });
                const levels = [...document.querySelectorAll("main :is(h1, h2, h3, h4)")]
                    .filter(shown)
                    .map((heading) => Number(heading.localName[1]));
                const skipped = levels.filter((level, index) => level > (levels[index - 1] ?? 0) + 1);
                return { unnamed: unnamed.map((control) => control.outerHTML), skipped, first: levels[0] };
            });
            assert.deepEqual(found, { unnamed: [], skipped: [], first: 1 }, address);
        }
    }));

/** Waits until `condition` holds, for as long as a page is waited for. */
async function eventually(condition) {
    const deadline = Date.now() + 20_000;
    while (!(await condition())) {
        assert.ok(Date.now() < deadline, "it never came to be");
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** Waits until the page's database holds what the page has begun to write. */
function stored(page) {
    return page.evaluate(
        () =>
            new Promise((resolve) => {
                indexedDB.open("rotor").onsuccess = ({ target: { result: database } }) => {
                    // It waits for the transactions that began before it.
                    const transaction = database.transaction(["conversations", "turns"], "readwrite");
                    transaction.objectStore("conversations").count();
                    transaction.oncomplete = () => resolve(database.close());
                };
            }),
    );
}

/** Runs in the page: all turns in its database. */
function storedTurns() {
    return new Promise((resolve) => {
        indexedDB.open("rotor").onsuccess = ({ target }) => {
            target.result.transaction("turns").objectStore("turns").getAll().onsuccess = ({ target: request }) =>
                resolve(request.result);
        };
    });
}
