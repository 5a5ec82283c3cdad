// Baton
