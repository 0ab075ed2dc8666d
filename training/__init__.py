"""How the bundled models and the zoo's are trained and measured, in folders by what is trained."""
