/** A conversation without turns: what this model is good for, and three ways to begin. */

import { h } from "./dom.js";
import { codeSample } from "./snippets.js";

const STARTERS = {
    builtin: [
        "The old sea captain opened the letter and",
        "It was a bright morning in the village, and",
        "My fellow Americans, tonight",
    ],
    base: ["The three laws of thermodynamics are", "A recipe for bread needs", "The history of the printing press begins"],
    chat: [
        "Explain how a bicycle stays upright.",
        "Write a short note asking a neighbour to water the plants.",
        "What is a closure, with an example in Python?",
    ],
};

/**
 * @param {import("./server.js").server} server
 * @param {(text: string) => void} send
 * @returns {import("./dom.js").Child[]}
 */
export function emptyState(server, send) {
    const { model, phase } = server;
    if (phase === "ready" && !model) return noModel();
    if (!model) return [];
    const kind = model.builtin ? "builtin" : model.chat_template === false ? "base" : "chat";
    const button = (text) =>
        h("button", { type: "button", class: "starter", disabled: !server.usable, on: { click: () => send(text) } }, text);
    return [
        h("h2", { class: "empty-title" }, model.id),
        h("p", {}, describe(kind, model)),
        h("div", { class: "starters" }, STARTERS[kind].map(button)),
    ];
}

function describe(kind, model) {
    const texts = {
        builtin:
            "The model inside the rotor binary. It only tells stories: it goes on in the manner of the old books it has read, and knows no facts.",
        base: "This model has no chat template: it does not answer, it goes on with the text you give it.",
        chat: "Runs on this machine. What you write stays between this browser and the server.",
    };
    const unloaded = model.status?.value === "unloaded" ? " It is loaded when the first message is sent." : "";
    return texts[kind] + unloaded;
}

function noModel() {
    return [
        h("h2", { class: "empty-title" }, "No model"),
        h("p", {}, "This server was started without a model. Name one when you start it:"),
        codeSample("rotor serve model.gguf", "shell"),
    ];
}
