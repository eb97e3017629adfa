// Node.js, with an event loop that has something to do.
const after = (ms, value) => new Promise((done) => setTimeout(done, ms, value));

Promise.all([after(30, "c"), after(20, "b"), after(10, "a")]).then((letters) => {
	console.log(letters.sort().join(""), process.version.split(".")[0]);
});
