//! Examples of echo-core: see the files beside this folder.
