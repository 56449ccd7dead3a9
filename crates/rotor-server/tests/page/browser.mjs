/**
 * What the page's tests share: one browser, a server, and pages on which nothing may go wrong unnoticed.
 *
 * ROTOR_PAGE_URL  a server to test; without it the mock server is started, and tests that need its canned answers run too
 * CHROMIUM        the browser, /usr/bin/chromium unless said otherwise
 */

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { startMock } from "./mock.mjs";

const FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/** The real server under test, or `undefined`. */
const realUrl = process.env.ROTOR_PAGE_URL || undefined;

/** Tokens of an answer of a real server, which may have a small context; a test that sets the length itself is heard. */
const REAL_LENGTH = 48;

/** For tests of what only the mock server can do: the reason to skip them, or `false`. */
export const mockOnly = realUrl ? "needs the mock server's canned answers" : false;

let browser;
let mock;

/** To be called before the tests of a file. */
export async function start() {
    mock = realUrl ? null : await startMock();
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
}

/** To be called after them. */
export async function end() {
    await browser?.close();
    await mock?.close();
}

/** The server's control; only where there is no real one. */
export const server = () => mock;

export const baseUrl = () => (realUrl ? new URL("./", realUrl).href : mock.url);

/**
 * Runs `body` with a page of a browser context of its own. Fails for every violation of the content security policy, uncaught
 * error, request to elsewhere, and console error that `allowed` does not match.
 *
 * @param {(page: import("playwright-core").Page, context: import("playwright-core").BrowserContext) => Promise<void>} body
 * @param {{ allowed?: RegExp, options?: object, prepare?: (context: any) => Promise<void>, address?: string }} [setup]
 */
export async function withPage(body, { allowed, options = {}, prepare, address = "" } = {}) {
    mock?.reset();
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    context.setDefaultTimeout(10_000);
    const problems = [];
    await watch(context, problems, allowed);
    if (realUrl) await context.addInitScript(limitLength, REAL_LENGTH);
    await prepare?.(context);
    try {
        const page = await context.newPage();
        await page.goto(baseUrl() + address);
        await body(page, context);
        assert.deepEqual(problems, [], "the page must run without errors, violations of its policy, and requests to elsewhere");
    } finally {
        await context.close();
    }
}

/** Runs in the page before its own scripts. */
function limitLength(length) {
    try {
        localStorage["rotor.preferences"] ??= JSON.stringify({ max_completion_tokens: length });
    } catch {
        // A test of blocked storage: answers have the length that the server gives them.
    }
}

async function watch(context, problems, allowed) {
    await context.exposeFunction("reportViolation", (text) => problems.push(`policy: ${text}`));
    await context.addInitScript(() => {
        addEventListener("securitypolicyviolation", (event) =>
            window.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`),
        );
    });
    const origin = new URL(baseUrl()).origin;
    context.on("request", (request) => {
        if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== origin)
            problems.push(`request to ${request.url()}`);
    });
    context.on("console", (message) => {
        if (message.type() === "error" && !allowed?.test(message.text())) problems.push(`console: ${message.text()}`);
    });
    context.on("weberror", (error) => problems.push(`uncaught: ${error.error().stack ?? error.error()}`));
}

/** Waits until the server can take a message. */
export async function ready(page) {
    await page.locator(".model-name, .model-choice").first().waitFor();
    await page.waitForFunction(() => !document.querySelector(".send:not(.stop)")?.disabled);
}

/** Sends a message; resolves at once. */
export async function say(page, text) {
    await ready(page);
    await page.getByLabel("Message", { exact: true }).fill(text);
    await page.getByLabel("Message", { exact: true }).press("Enter");
}

/** The last answer, when it has come to its end. */
export async function answered(page, count = 1) {
    await page.waitForFunction(
        (wanted) => {
            const turns = document.querySelectorAll(".turn.assistant");
            return turns.length >= wanted && [...turns].every((turn) => turn.getAttribute("aria-busy") === "false");
        },
        count,
        { timeout: 60_000 },
    );
    return lastAnswer(page);
}

export const lastAnswer = (page) => page.locator(".turn.assistant").last();

/** The plain text of the last answer. */
export const answerText = (page) => lastAnswer(page).locator(".markdown").innerText();

/** Slows what comes from the server, so that an answer of any model can be stopped before its end. */
export async function slowDown(page, bytesPerSecond = 12_000) {
    const session = await page.context().newCDPSession(page);
    await session.send("Network.enable");
    await session.send("Network.emulateNetworkConditions", {
        offline: false,
        latency: 0,
        downloadThroughput: bytesPerSecond,
        uploadThroughput: -1,
    });
    return () =>
        session.send("Network.emulateNetworkConditions", {
            offline: false,
            latency: 0,
            downloadThroughput: -1,
            uploadThroughput: -1,
        });
}
