// In a notebook's frame, which cannot grow with what it holds, the sections after the first are folded.

function foldSections() {
  document.body.classList.add("framed");
  for (const section of [...document.querySelectorAll("main > section")].slice(1)) {
    const heading = section.querySelector("h2"), button = element("button", { type: "button", textContent: heading.textContent });
    const fold = (folded) => {
      section.classList.toggle("folded", folded);
      button.setAttribute("aria-expanded", String(!folded));
    };
    button.addEventListener("click", () => fold(!section.classList.contains("folded")));
    heading.replaceChildren(button);
    fold(true);
  }
}

if (window.name === "mambascope-frame") foldSections();
