/** The page's spine: opens the store, follows the address, and puts one view beside the side bar. */

import { Announcer } from "./announce.js";
import { ChatView } from "./chat.js";
import { h, fill, iconButton } from "./dom.js";
import * as keys from "./keys.js";
import { ModelView } from "./model.js";
import { followTheme } from "./preferences.js";
import { RequestsView } from "./requests.js";
import { chatAddress, currentRoute, go, settingsAddress } from "./router.js";
import { server } from "./server.js";
import { SettingsView } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { showStatus } from "./status.js";
import { Store } from "./store.js";
import { toast } from "./toast.js";
import { TokensView } from "./tokens.js";

followTheme();
const store = new Store();
await store.open();

const announcer = new Announcer(document.getElementById("live"));
const sidebar = new Sidebar(store);
const chat = new ChatView(store, announcer, () => renderBar());
const content = document.getElementById("content");
/** @type {{ element: Element, title: string, leave?: () => void }} The view beside the side bar. */
let view = chat;

const wide = matchMedia("(min-width: 1000px)");

wide.addEventListener("change", () => renderBar());
addEventListener("hashchange", follow);
server.addEventListener("change", () => renderBar());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && server.refresh());
document.getElementById("skip").addEventListener("click", focusMessage);
document.getElementById("new").addEventListener("click", () => setTimeout(focusMessage));
store.addEventListener("full", () => toast("This browser has no more room: what comes now is lost when the page is closed."), {
    once: true,
});
keys.listen({ message: focusMessage, escape, branch: (by) => chat.stepBranch(by) });
showStatus(document.getElementById("status"), store);
await follow();
server.refresh();

/** Shows what the address asks for. */
async function follow() {
    const route = currentRoute();
    view.leave?.();
    // Other views leave the conversation that was open as it is.
    if (route.conversation || route.view === "chat") await openConversation(route.conversation);
    view = await viewOf(route);
    document.body.dataset.view = route.view;
    fill(content, route.view === "settings" ? [chat.element, view.element] : view.element);
    renderBar();
    sidebar.refresh();
    if (content.contains(chat.element)) chat.shown();
    if (route.view === "chat") {
        if (matchMedia("(pointer: fine)").matches) chat.composer.field.focus({ preventScroll: true });
    }
}

async function openConversation(id) {
    if (await chat.show(id)) return;
    toast("That conversation is not in this browser.");
    go("#/");
}

async function viewOf({ view: name, turn }) {
    switch (name) {
        case "tokens":
            return TokensView.of(store, chat, turn);
        case "model":
            return new ModelView();
        case "requests":
            return new RequestsView();
        case "settings":
            return new SettingsView(store);
        default:
            return chat;
    }
}

/** The header: a way to the side bar on small screens, the title, the model. */
function renderBar() {
    const bar = document.getElementById("bar");
    document.getElementById("settings-link").href = settingsAddress(chat.conversation?.id);
    const key = JSON.stringify([
        titleText(),
        showsChat() && chat.conversation?.id,
        server.model?.id,
        server.models.map(({ id, status }) => [id, status?.value]),
    ]);
    if (bar.dataset.key === key) return;
    bar.dataset.key = key;
    document.title = `${titleText()} · rotor`;
    fill(
        bar,
        iconButton("menu", "Conversations and views", { class: "icon-button menu", on: { click: () => sidebar.open() } }),
        title(),
        modelChoice(),
    );
}

/** Whether the conversation is on the screen: wide screens show it beside the settings. */
function showsChat() {
    return view === chat || (view instanceof SettingsView && wide.matches);
}

function titleText() {
    return showsChat() ? chat.title : view.title;
}

/** The title of the view; that of a conversation becomes a field when it is pressed. */
function title() {
    if (!showsChat() || !chat.conversation) return h("h1", { class: "title" }, titleText());
    const button = h(
        "button",
        {
            type: "button",
            class: "rename",
            title: "Rename",
            dir: "auto",
            on: { click: () => heading.replaceWith(titleField(heading)) },
        },
        chat.title,
    );
    const heading = h("h1", { class: "title" }, button);
    return heading;
}

function titleField(heading) {
    const field = h("input", {
        class: "title-field",
        value: chat.title,
        "aria-label": "Title of the conversation",
        maxLength: 120,
    });
    const keep = async () => {
        field.removeEventListener("blur", keep);
        if (field.value.trim() && field.value.trim() !== chat.title) await chat.rename(field.value.trim());
        else field.replaceWith(heading);
    };
    field.addEventListener("blur", keep);
    field.addEventListener("keydown", (event) => {
        if (event.key === "Escape") field.value = "";
        if (event.key !== "Enter" && event.key !== "Escape") return;
        event.preventDefault();
        field.blur();
    });
    setTimeout(() => field.select());
    return field;
}

function modelChoice() {
    const { models, model } = server;
    if (!model) return h("span", { class: "model-name" }, server.phase === "ready" ? "no model" : "");
    if (models.length === 1) return h("span", { class: "model-name", title: model.id }, model.id);
    const option = ({ id, status }) =>
        h(
            "option",
            { value: id, selected: id === model.id },
            status?.value && status.value !== "loaded" ? `${id} (${status.value})` : id,
        );
    return h(
        "select",
        { class: "model-choice", "aria-label": "Model", on: { change: ({ target }) => server.choose(target.value) } },
        models.map(option),
    );
}

function focusMessage() {
    if (currentRoute().view !== "chat") go(chatAddress(chat.conversation?.id));
    setTimeout(() => chat.composer.field.focus());
}

/** Escape closes the side bar, else goes back from a view to the conversation, else stops the answer. */
function escape() {
    if (sidebar.isOpen) sidebar.close();
    else if (currentRoute().view === "chat") chat.stop();
    else go(chatAddress(chat.conversation?.id));
}
