// The view that the page shows, in its address after #, so that a link opens it again: #method=2&layer=3&token=14.

const address = () => new URLSearchParams(window.location.hash.slice(1));

// The whole numbers, separated by commas, that the address gives under a name; none where it gives anything else.
function addressed(key) {
  const words = (address().get(key) ?? "").split(",");
  return words.every((word) => /^\d{1,9}$/.test(word)) ? words.map(Number) : [];
}

// Parts of the page that keep a view of their own: view returns its words, restore goes to what the address names.
const keepers = [];

let noting = null;
// Write a view into the address once readers rest; facts without a value are left out.
function noteView(facts) {
  if (!document.body.dataset.ready) return;
  clearTimeout(noting);
  noting = setTimeout(() => {
    const words = Object.entries(facts()).filter(([, value]) => value !== null).map(([key, value]) => `${key}=${value}`);
    try {
      window.history.replaceState(null, "", `#${words.join("&")}`);
    } catch { /* a frame without an address of its own */ }
  }, 150);
}
