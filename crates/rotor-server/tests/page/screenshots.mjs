/**
 * Takes the pictures that are to be looked at before the page is called done: nine views, two widths, two colour schemes.
 *
 *     node screenshots.mjs FOLDER [WORD]    # only those whose name has WORD in it; of a real server where ROTOR_PAGE_URL names one
 *
 * They are not compared with anything: only eyes see what is cut off, overlapping or unaligned.
 */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { answered, baseUrl, end, lastAnswer, ready, say, server, start, withPage } from "./browser.mjs";

const [folder = "screenshots", word = ""] = process.argv.slice(2);

/** A few conversations, so that the side bar has something in it. */
async function furnish(page) {
    for (const text of ["A tale of the king's lighthouse", "Receipts for bread and salt", "What is the wind?"]) {
        await say(page, text);
        await answered(page);
        await page.evaluate(() => (location.hash = "#/"));
        await page.locator(".starter").first().waitFor();
    }
}

/** An answer, so that the server has measured what it does. */
async function answeredOnce(page) {
    await say(page, "Tell me a story.");
    await answered(page);
}

/** @type {Record<string, (page: import("playwright-core").Page) => Promise<void>>} */
const VIEWS = {
    "chat-empty": ready,
    "chat-streaming": async (page) => {
        await furnish(page);
        await say(page, "Tell me a slow story of the sea, with a captain in it.");
        await page.waitForFunction(() => document.querySelector(".turn.assistant .markdown")?.innerText.length > 100);
    },
    "chat-code": async (page) => {
        await say(page, "What is a closure? Show me some code, please.");
        await answered(page);
        await page.locator(".scroll").evaluate((box) => (box.scrollTop = 0));
    },
    "chat-branch": async (page) => {
        await furnish(page);
        await say(page, "think: how does a bicycle stay upright?");
        await answered(page);
        await lastAnswer(page).getByRole("button", { name: "Again" }).click();
        await answered(page);
        await page.getByRole("button", { name: "Previous branch" }).click();
        await say(page, "And now in the rain?");
        await answered(page, 2);
    },
    "chat-error": async (page) => {
        await say(page, "This one fails, whatever is done.");
        await lastAnswer(page).getByText("Try again").waitFor();
        await say(page, "This is too long");
        await lastAnswer(page).getByRole("link", { name: "New conversation" }).waitFor();
    },
    tokens: async (page) => {
        await say(page, "Tell me a story.");
        await (await answered(page)).getByRole("link", { name: "Tokens" }).click();
        await page.locator(".token").nth(5).click();
    },
    model: async (page) => {
        await ready(page);
        if (server()) await page.getByLabel("Model", { exact: true }).selectOption("microsoft/bitnet-b1.58-2B-4T");
        else await answeredOnce(page);
        await page.goto(`${baseUrl()}#/model`);
        await page.locator(".strip").waitFor();
    },
    "requests-empty": async (page) => {
        await ready(page);
        await page.goto(`${baseUrl()}#/requests`);
        await page.locator(".snippets").waitFor();
    },
    "requests-eight": async (page) => {
        server()?.set({ running: 8, waiting: 3 });
        await page.goto(`${baseUrl()}#/requests`);
        await page.locator(".rows").first().waitFor();
    },
    settings: async (page) => {
        await say(page, "Tell me a story.");
        await answered(page);
        await page.locator("#settings-link").evaluate((link) => link.click());
        await page.getByLabel("Temperature", { exact: true }).fill("0.6");
    },
    // Beyond those that the design asks for: the rest of long views, and states.
    "more-model-layers": async (page) => {
        await VIEWS.model(page);
        await page.locator(".strip .cell").nth(13).click();
        await page.getByRole("heading", { name: "Layers" }).evaluate((heading) => heading.scrollIntoView());
    },
    "more-model-speed": async (page) => {
        await VIEWS.model(page);
        await page.locator(".strip .cell").nth(6).click();
        await page.locator(".view").evaluate((box) => (box.scrollTop = box.scrollHeight));
    },
    "more-requests": async (page) => {
        await VIEWS["requests-eight"](page);
        await page.locator(".view").evaluate((box) => (box.scrollTop = box.scrollHeight));
    },
    "more-settings": async (page) => {
        await VIEWS.settings(page);
        await page.locator(".panel").evaluate((box) => (box.scrollTop = box.scrollHeight));
    },
    "state-loading": async (page) => {
        server()?.set({ models: [(await import("./canned.mjs")).MODELS[0]], loading: 0.42 });
        await page.reload();
        await page.getByText("42 %").waitFor();
    },
    "state-none": async (page) => {
        server()?.set({ models: [] });
        await page.reload();
        await page.getByText("rotor serve").waitFor();
    },
    "state-key": async (page) => {
        server()?.set({ key: "secret" });
        await page.reload();
        await page.getByLabel("API key").waitFor();
    },
    "state-gone": async (page) => {
        await page.context().route("**/v1/models", (route) => route.abort("connectionrefused"));
        await page.reload();
        await page.getByText(/Trying again in/).waitFor();
    },
    "state-arabic": async (page) => {
        await say(page, "arabic");
        await answered(page);
        await say(page, "markdown");
        await answered(page, 2);
    },
    "state-sidebar": async (page) => {
        await furnish(page);
        await page.evaluate(() => document.querySelector(".menu").click());
        await page.waitForTimeout(250);
    },
    "state-stopped": async (page) => {
        await say(page, "slow");
        await page.waitForFunction(() => document.querySelector(".turn.assistant .markdown")?.innerText.length > 60);
        await page.keyboard.press("Escape");
        await page.getByText("Stopped here.").waitFor();
        await lastAnswer(page).getByRole("button", { name: "Edit" }).click();
    },
};

/** What only the mock server's canned answers show. */
const MOCK_ONLY = /^(chat-code|chat-error|requests-eight|more-requests|state-(loading|none|key|arabic|stopped))$/;

await mkdir(folder, { recursive: true });
await start();
for (const [name, prepare] of Object.entries(VIEWS)) {
    if (!server() && MOCK_ONLY.test(name)) continue;
    for (const width of [1440, 390]) {
        for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
            const file = `${name}-${width}-${colorScheme}.png`;
            if (!file.includes(word)) continue;
            const options = {
                viewport: { width, height: width > 1000 ? 900 : 844 },
                colorScheme,
                reducedMotion: /** @type {const} */ ("reduce"),
            };
            const take = async (page) => {
                await prepare(page);
                await page.waitForTimeout(150);
                await page.screenshot({ path: join(folder, file) });
            };
            await withPage(take, { options, allowed: /status of|net::/ }).catch((error) =>
                console.error(`${file}: ${error.message}`),
            );
        }
    }
}
await end();
